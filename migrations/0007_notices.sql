-- News on their way: what buyers are mailed, and what merchants have asked to be called for. A row is written in the same
-- entry as the event that it tells of, so nothing is told of what did not happen.

create type notice_state as enum ('open', 'sent', 'dead');

create table outbox (
    -- also what the Message-ID or the webhook's id is made of: a receiver tells a repetition by it
    id bigint primary key,
    channel text not null,
    -- to whom; 0: the order's buyer
    subscription_id bigint not null default 0,
    order_id bigint not null,
    event_seq integer not null,
    kind text not null,
    state notice_state not null,
    attempts integer not null default 0,
    next_at timestamptz not null,
    last_error text,
    created_at timestamptz not null,
    sent_at timestamptz
);
-- "what is due to this receiver"; only what is still to be told is in it
create index outbox_due on outbox (channel, subscription_id, next_at) where state = 'open';
-- news of one order reach one receiver in order: "is there an earlier one"
create index outbox_line on outbox (channel, subscription_id, order_id, id) where state = 'open';
create index outbox_dead on outbox (id) where state = 'dead';
create index outbox_sent on outbox (sent_at) where state = 'sent';
create index outbox_of_subscription on outbox (subscription_id, id) where subscription_id <> 0;

create table webhook_subscription (
    id bigint primary key,
    url text not null,
    -- shared with the merchant, so it cannot be kept as a hash
    secret text not null,
    events text[] not null,
    description text not null,
    -- why it is not called any more; null: it is
    disabled text,
    -- since when no call has gone well; null: the last one did
    failing_since timestamptz,
    created_at timestamptz not null
);

-- the delivery log: a line a call
create table webhook_attempt (
    notice_id bigint not null,
    attempt integer not null,
    subscription_id bigint not null,
    at timestamptz not null,
    millis bigint not null,
    -- of the answer, where there was one
    status integer,
    error text,
    -- the beginning of the answer
    said text not null,
    -- a notice that is told again by hand counts its tries from one again
    primary key (notice_id, at, attempt)
);
create index webhook_attempt_at on webhook_attempt (at);

do $$
begin
    if exists (select from pg_roles where rolname = 'souk_shop') then
        grant select on outbox, webhook_subscription, webhook_attempt to souk_shop;
    end if;
end
$$;
