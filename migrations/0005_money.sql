-- Money in every state: refunds of parts, cancels, authorisations, disputes, reversals, and the provider's own event list.

-- what sending costs, part of the total; given back with a refund of shipping or a whole cancel
alter table customer_order add column shipping_minor bigint not null default 0;
alter table customer_order
    add constraint customer_order_shipping_within_total check (shipping_minor between 0 and total_minor);
-- the hold's own end, while an undecided payment keeps the lines for longer; null: the deadline is the hold's own
alter table customer_order add column hold_ends_at timestamptz;

-- a part that was split off another one, by the number of the part that was reserved; null: it was reserved itself.
-- What was bought of a line is its first part and everything that was split off it
alter table reservation add column split_of integer;

alter type payment_state add value 'authorised';
alter type payment_state add value 'disputed';
alter type payment_state add value 'reversed';
alter type payment_state add value 'voided';

alter type task_kind add value 'authorise';
alter type task_kind add value 'capture_authorised';
alter type task_kind add value 'void';
-- how much is asked for, where a later decision about the order must not change it: a request id names one amount
alter table task add column amount_minor bigint;

-- whether an attempt was announced as one that is charged at once, or reserved first: the settings may change meanwhile
alter table payment add column intent text not null default 'capture';

-- what a refund is of, which lines it pays for, and the command that wished it (its number, as the key remembers it)
alter table refund add column kind text not null default 'correction';
alter table refund add column lines jsonb not null default '[]';
alter table refund add column command_id bigint;

-- how far each provider's own list of events has been read: the second path for webhooks that never came
create table provider_cursor (
    provider text primary key,
    read_until timestamptz not null,
    next_at timestamptz not null
);

-- what is known of each capture: what came, what went back or is on its way, and what was taken back (reversed, or lost in
-- a dispute) of what had not gone back. Of two words about one capture the later one counts, a reversal before its equal
create view money_of_capture as
select c.order_id, c.payment_id, c.capture_id, c.captured, r.refunding,
    least(greatest(c.captured - r.refunding, 0), case when c.reversed then c.captured else d.lost end) as gone
from (
    select p.order_id, f.payment_id, f.object_id as capture_id, coalesce(max(f.amount_minor), 0)::bigint as captured,
        coalesce(max(f.at) filter (where f.status = 'reversed')
            >= max(f.at) filter (where f.status in ('completed', 'partially_refunded')), bool_or(f.status = 'reversed'))
            as reversed
    from payment p join payment_fact f on f.payment_id = p.id
    where f.kind = 'capture' and f.status in ('completed', 'partially_refunded', 'refunded', 'reversed')
    group by p.order_id, f.payment_id, f.object_id
) c
cross join lateral (
    select coalesce(sum(amount_minor), 0)::bigint as refunding from refund
    where payment_id = c.payment_id and capture_id = c.capture_id and state in ('requested', 'pending', 'completed')
) r
cross join lateral (
    select coalesce(sum(coalesce(amount_minor, c.captured)), 0)::bigint as lost from (
        select distinct on (object_id) status, amount_minor from payment_fact
        where payment_id = c.payment_id and kind = 'dispute' and parent = c.capture_id
        order by object_id, at desc, status = 'lost' desc
    ) newest where status = 'lost'
) d;

-- money of each order that has any: what arrived, what went, or is going, back, what was taken back; and how much of what
-- went back the order had no claim to any more (surplus, mismatches, cancelled lines)
create or replace view money_of_order as
select o.id as order_id, c.captured, coalesce(r.refunding, 0) as refunding, coalesce(c.gone, 0) as gone,
    coalesce(r.corrected, 0) as corrected
from customer_order o
cross join lateral (
    select coalesce(sum(captured), 0) as captured, sum(gone) as gone, count(*) > 0 as any
    from money_of_capture where order_id = o.id
) c
cross join lateral (
    select sum(amount_minor) as refunding,
        sum(amount_minor) filter (where kind in ('correction', 'cancellation')) as corrected
    from refund where order_id = o.id and state in ('requested', 'pending', 'completed')
) r
where c.any or r.refunding is not null or o.status in ('confirmed', 'completed');

do $$
begin
    if exists (select from pg_roles where rolname = 'souk_shop') then
        grant select on provider_cursor, money_of_capture to souk_shop;
    end if;
end
$$;
