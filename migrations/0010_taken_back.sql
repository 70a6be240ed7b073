-- Money of which banks take a part back, and refunds that wait for it.

-- its money has gone another way: owed again if that comes back
alter type refund_state add value 'set_aside';

-- the refund, or the rest of one, in whose place this one is asked for: should that go out after all, this one is not owed
alter table refund add column replaces bigint;

-- What is known of each capture, as before; and new:
--   * a part that was taken back shows as a refund (mirrored), and its dispute names the same money: it is gone once
--   * barred: what is owed of a capture that is taken back in part, whose bank lets nobody give the rest back
-- Words are compared as text: a value that was added to an enum cannot be used before this is committed
create or replace view money_of_capture as
select c.order_id, c.payment_id, c.capture_id, c.captured, r.refunding,
    least(greatest(c.captured - r.refunding, 0),
        case when c.reversed then c.captured else greatest(d.lost - r.mirrored, 0) end) as gone,
    case when c.cut then r.set_aside else 0 end as barred
from (
    select p.order_id, f.payment_id, f.object_id as capture_id, coalesce(max(f.amount_minor), 0)::bigint as captured,
        coalesce(max(f.at) filter (where f.status = 'reversed')
            >= max(f.at) filter (where f.status in ('completed', 'partially_refunded', 'partially_reversed')),
            bool_or(f.status = 'reversed')) as reversed,
        coalesce(max(f.at) filter (where f.status = 'partially_reversed')
            >= max(f.at) filter (where f.status in ('completed', 'partially_refunded')),
            bool_or(f.status = 'partially_reversed')) as cut
    from payment p join payment_fact f on f.payment_id = p.id
    where f.kind = 'capture'
    and f.status in ('completed', 'partially_refunded', 'refunded', 'reversed', 'partially_reversed')
    group by p.order_id, f.payment_id, f.object_id
) c
cross join lateral (
    select coalesce(sum(amount_minor) filter (where state in ('requested', 'pending', 'completed')), 0)::bigint as refunding,
        coalesce(sum(amount_minor) filter (where state in ('requested', 'pending', 'completed') and kind = 'mirrored'),
            0)::bigint as mirrored,
        coalesce(sum(amount_minor) filter (where state::text = 'set_aside'), 0)::bigint as set_aside
    from refund where payment_id = c.payment_id and capture_id = c.capture_id
) r
cross join lateral (
    select coalesce(sum(coalesce(amount_minor, c.captured)), 0)::bigint as lost from (
        select distinct on (object_id) status, amount_minor from payment_fact
        where payment_id = c.payment_id and kind = 'dispute' and parent = c.capture_id
        order by object_id, at desc, status = 'lost' desc
    ) newest where status = 'lost'
) d;

create or replace view money_of_order as
select o.id as order_id, c.captured, coalesce(r.refunding, 0) as refunding, coalesce(c.gone, 0) as gone,
    coalesce(r.corrected, 0) as corrected, coalesce(c.barred, 0) as barred
from customer_order o
cross join lateral (
    select coalesce(sum(captured), 0) as captured, sum(gone) as gone, sum(barred) as barred, count(*) > 0 as any
    from money_of_capture where order_id = o.id
) c
cross join lateral (
    select sum(amount_minor) as refunding,
        sum(amount_minor) filter (where kind in ('correction', 'cancellation')) as corrected
    from refund where order_id = o.id and state in ('requested', 'pending', 'completed')
) r
where c.any or r.refunding is not null or o.status in ('confirmed', 'completed');
