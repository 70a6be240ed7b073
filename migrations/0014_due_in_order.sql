-- News that are due, in the very order in which they are told: whoever wants the next few reads these and no others.
drop index outbox_due;
create index outbox_due on outbox (channel, subscription_id, next_at, id) where state = 'open';
