//! The audit: sentences that are true of every database at every moment, as questions that must find nothing.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgPool};

/// One sentence, and the question that finds where it is not true. `$1`, where it
/// stands, is the time of asking.
pub struct Check {
    /// Its short name.
    pub name: &'static str,
    /// What must be true.
    pub sentence: &'static str,
    sql: &'static str,
}

/// Every check, cheap ones first.
pub const CHECKS: &[Check] = &[
    Check {
        name: "stock-range",
        sentence: "no SKU has less than nothing, nor more reserved than on hand",
        sql: "select format('sku %s: on_hand %s, reserved %s', sku_id, on_hand, reserved) from stock
              where on_hand < 0 or reserved < 0 or reserved > on_hand",
    },
    Check {
        name: "stock-is-ledger",
        sentence: "every SKU's counters are the sums of its ledger",
        sql: "select format('sku %s: on_hand %s, reserved %s; ledger %s, %s', coalesce(s.sku_id, l.sku_id), s.on_hand,
                  s.reserved, l.on_hand, l.reserved)
              from stock s full join (
                  select sku_id, sum(d_on_hand) as on_hand, sum(d_reserved) as reserved from ledger group by sku_id
              ) l using (sku_id)
              where (s.on_hand, s.reserved) is distinct from (l.on_hand, l.reserved)",
    },
    Check {
        name: "stock-is-reservations",
        sentence: "what is reserved of a SKU is what open reservations say",
        sql: "select format('sku %s: reserved %s, reservations %s', s.sku_id, s.reserved, coalesce(r.open, 0))
              from stock s left join (
                  select sku_id, sum(quantity) as open from reservation where state in ('held', 'committed') group by sku_id
              ) r using (sku_id)
              where s.reserved <> coalesce(r.open, 0)",
    },
    Check {
        name: "unpaid-is-held",
        sentence: "what may come back of a SKU is what unpaid orders hold",
        sql: "select format('sku %s: unpaid %s, held %s', s.sku_id, s.unpaid, coalesce(r.held, 0))
              from stock s left join (
                  select sku_id, sum(quantity) as held from reservation where state = 'held' group by sku_id
              ) r using (sku_id)
              where s.unpaid <> coalesce(r.held, 0)",
    },
    Check {
        name: "sale-sold-is-lines",
        sentence: "what a sale has sold of a SKU, and what of that is unpaid, is what lines bought in it say, and no more than \
                   it has",
        sql: "select format('sale %s sku %s: sold %s of %s, unpaid %s, lines %s and %s', sale_id, sku_id, q.sold, q.quantity,
                  q.unpaid, l.units, l.unpaid)
              from sale_sku q full join (
                  select sale_id, sku_id, sum(quantity) as units, sum(quantity) filter (where state = 'held') as unpaid
                  from reservation
                  where sale_id is not null and state not in ('released', 'expired') group by sale_id, sku_id
              ) l using (sale_id, sku_id)
              where coalesce(q.sold, -1) <> coalesce(l.units, 0) or q.unpaid <> coalesce(l.unpaid, 0) or q.sold > q.quantity",
    },
    Check {
        name: "limit-use-is-lines",
        sentence: "what a customer has of a sale with a limit is what that one's lines say, and no more than the limit",
        sql: "select format('sale %s sku %s: used %s of %s, lines %s, limit %s', sale_id, sku_id, u.used, u.cap, l.units,
                  s.per_customer)
              from limit_use u full join (
                  select sale_id, sku_id, customer, sum(quantity) as units from reservation
                  where customer is not null and state not in ('released', 'expired') group by sale_id, sku_id, customer
              ) l using (sale_id, sku_id, customer)
              left join sale s on s.id = sale_id
              where coalesce(u.used, 0) <> coalesce(l.units, 0) or u.used > u.cap or u.cap is distinct from s.per_customer
                  and u.used > 0",
    },
    Check {
        name: "sale-line-on-its-terms",
        sentence: "what was bought in a sale costs what it costs there, and is of a customer where the sale has a limit",
        sql: "select format('order %s part %s sale %s sku %s: price %s of %s, limit %s, customer %s', r.order_id, r.part,
                  r.sale_id, r.sku_id, r.unit_price_minor, p.minor, s.per_customer, r.customer is not null)
              from reservation r join customer_order o on o.id = r.order_id
              left join sale s on s.id = r.sale_id
              left join sale_price p on p.sale_id = r.sale_id and p.sku_id = r.sku_id and p.currency = o.currency
              where r.sale_id is not null and r.state not in ('released', 'expired') and (
                  r.unit_price_minor is distinct from p.minor or (s.per_customer is null) <> (r.customer is null))",
    },
    Check {
        name: "sale-window-once",
        sentence: "what a sale has of a SKU knows the sale's own window",
        sql: "select format('sale %s sku %s: %s, %s to %s', q.sale_id, q.sku_id, q.during, s.starts_at, s.ends_at)
              from sale_sku q left join sale s on s.id = q.sale_id
              where q.during is distinct from
                  case when s.cancelled_at is null then tstzrange(s.starts_at, s.ends_at) else 'empty'::tstzrange end",
    },
    Check {
        name: "ticket-was-called",
        sentence: "a ticket that is used up was called, and its order is there",
        sql: "select format('sale %s place %s: order %s, %s called', t.sale_id, t.place, t.order_id, w.called)
              from ticket_use t left join waiting_room w using (sale_id) left join customer_order o on o.id = t.order_id
              where o.id is null or w.called is null or t.place >= w.called",
    },
    Check {
        name: "total-is-lines",
        sentence: "an order costs what its lines and its sending cost",
        sql: "select format('order %s: total %s, lines %s, sending %s', o.id, o.total_minor, l.total, o.shipping_minor)
              from customer_order o left join (
                  select order_id, sum(quantity * unit_price_minor) as total from reservation
                  where line in (part, split_of) group by order_id
              ) l on l.order_id = o.id
              where o.total_minor is distinct from l.total + o.shipping_minor",
    },
    Check {
        name: "status-is-reservations",
        sentence: "an open order has its lines reserved or shipped, a closed one has none reserved",
        sql: "select format('order %s is %s with reservations %s', o.id, o.status, array_agg(distinct r.state))
              from customer_order o join reservation r on r.order_id = o.id
              group by o.id, o.status
              having case o.status
                  when 'awaiting_payment' then not bool_or(r.state = 'held') or bool_or(r.state = 'committed')
                  when 'confirmed' then bool_or(r.state = 'held')
                      or not bool_or(r.state in ('committed', 'shipped', 'restocked', 'quarantined', 'scrapped'))
                  when 'completed' then bool_or(r.state in ('held', 'committed'))
                      or not bool_or(r.state in ('shipped', 'restocked', 'quarantined', 'scrapped'))
                  when 'expired' then bool_or(r.state in ('held', 'committed'))
                  -- a carrier may still decide about a label
                  when 'cancelling' then bool_or(r.state = 'held') or bool_or(r.state = 'committed') and not exists (
                      select from shipment s where s.order_id = o.id and s.state in ('purchasing', 'voiding'))
                  when 'cancelled' then bool_or(r.state in ('held', 'committed', 'shipped'))
                  else false
              end",
    },
    Check {
        name: "shipped-is-parcels",
        sentence: "of each line as much has left as was in the parcels that left",
        sql: "select format('order %s line %s: %s left, %s in parcels', order_id, line, r.gone, p.packed)
              from (
                  select order_id, line, sum(quantity) as gone from reservation
                  where state in ('shipped', 'restocked', 'quarantined', 'scrapped') group by order_id, line
              ) r full join (
                  select s.order_id, l.line, sum(l.quantity) as packed from shipment s
                  join shipment_line l on l.shipment_id = s.id where s.left_at is not null group by s.order_id, l.line
              ) p using (order_id, line)
              where r.gone is distinct from p.packed",
    },
    Check {
        name: "packed-is-sold",
        sentence: "no parcel that waits holds more of a line than is sold",
        sql: "select format('order %s line %s: %s packed, %s sold', order_id, line, p.packed, coalesce(r.sold, 0))
              from (
                  select s.order_id, l.line, sum(l.quantity) as packed
                  from shipment s join shipment_line l on l.shipment_id = s.id
                  where s.state in ('draft', 'purchasing', 'labelled', 'label_failed', 'voiding', 'void_rejected')
                  group by s.order_id, l.line
              ) p left join (
                  select order_id, line, sum(quantity) as sold from reservation where state = 'committed' group by order_id, line
              ) r using (order_id, line)
              where p.packed > coalesce(r.sold, 0)",
    },
    Check {
        name: "label-once",
        sentence: "a label belongs to one shipment",
        sql: "select format('label %s of %s shipments', label_id, count(*)) from shipment
              where label_id is not null group by service ->> 'provider', label_id having count(*) > 1",
    },
    Check {
        name: "label-stuck",
        sentence: "a label that is being bought or given back has a call under way",
        sql: "select format('shipment %s of order %s is %s', s.id, s.order_id, s.state) from shipment s
              where s.state in ('purchasing', 'voiding') and not exists (
                  select from task t where t.shipment_id = s.id and t.state = 'open'
                  and t.kind = case s.state when 'purchasing' then 'buy_label' else 'void_label' end::task_kind)",
    },
    Check {
        name: "returns-within-shipped",
        sentence: "never more of a line comes back than left, and every unit that was looked at came with a return",
        sql: "select format('order %s line %s: %s left, %s claimed, %s looked at, %s of returns', order_id, line, r.gone,
                  b.claimed, r.looked_at, b.decided)
              from (
                  select order_id, line, coalesce(sum(quantity) filter (where state in
                          ('shipped', 'restocked', 'quarantined', 'scrapped')), 0) as gone,
                      coalesce(sum(quantity) filter (where state in ('restocked', 'quarantined', 'scrapped')), 0) as looked_at
                  from reservation group by order_id, line
              ) r left join (
                  select g.order_id, l.line,
                      sum(case when g.state in ('inspected', 'closed') then l.received else l.quantity end) as claimed,
                      sum(l.restocked + l.quarantined + l.scrapped) as decided
                  from goods_return g join return_line l on l.return_id = g.id where g.state <> 'declined'
                  group by g.order_id, l.line
              ) b using (order_id, line)
              where coalesce(b.claimed, 0) > r.gone or coalesce(b.decided, 0) <> r.looked_at",
    },
    Check {
        name: "hold-overdue",
        sentence: "no hold outlives its deadline by a minute",
        sql: "select format('order %s held until %s', id, deadline) from customer_order
              where status = 'awaiting_payment' and deadline < $1 - interval '1 minute'",
    },
    Check {
        name: "timeline-whole",
        sentence: "an order's events are numbered without a gap",
        sql: "select format('order %s: %s events, the last is number %s', order_id, count(*), max(seq)) from order_event
              group by order_id having count(*) <> max(seq) - 1 or min(seq) <> 2",
    },
    Check {
        name: "order-has-key",
        sentence: "every order was placed with one key",
        sql: "select format('order %s has %s keys', o.id, count(i.key)) from customer_order o
              left join idempotency i on i.ref_id = o.id and i.route = 'checkout'
              group by o.id having count(i.key) <> 1",
    },
    Check {
        name: "confirmed-is-paid",
        sentence: "a confirmed order has its money or has it reserved, or is held back; and no more than it costs",
        sql: "select format('order %s (%s) costs %s, captured %s, refunding %s, of that corrections %s', o.id, o.status, d.due,
                  m.captured, m.refunding, m.corrected)
              from customer_order o join money_of_order m on m.order_id = o.id cross join lateral (
                  select o.total_minor - coalesce(sum(quantity * unit_price_minor), 0) as due
                  from reservation where order_id = o.id and state = 'released'
              ) d
              where o.status in ('confirmed', 'completed') and m.gone = 0 and (
                  m.captured - m.corrected < d.due and o.hold_reason is null and not exists (
                      select from payment p where p.order_id = o.id and p.state in ('authorised', 'capturing', 'pending'))
                  or m.captured - m.refunding - m.barred > d.due)",
    },
    Check {
        name: "money-has-an-end",
        sentence: "money of an order that is not confirmed goes back",
        sql: "select format('order %s is %s, captured %s, refunding %s, taken back %s, barred %s', o.id, o.status,
                  m.captured, m.refunding, m.gone, m.barred)
              from customer_order o join money_of_order m on m.order_id = o.id
              where o.status in ('expired', 'cancelled', 'cancelling', 'awaiting_payment')
              and m.captured > m.refunding + m.gone + m.barred
              and not (o.status = 'awaiting_payment' and m.captured - m.refunding - m.gone < o.total_minor)
              -- how much goes back is known when the carriers have decided about its labels
              and not (o.status = 'cancelling' and exists (
                  select from shipment s where s.order_id = o.id and s.state in ('purchasing', 'voiding')))",
    },
    Check {
        name: "refund-within-capture",
        sentence: "never more goes back of a capture than came with it, unless it was given at the provider",
        sql: "select format('capture %s of order %s: captured %s, refunding %s', capture_id, order_id, captured, refunding)
              from money_of_capture c
              where refunding > captured and exists (
                  select from refund r where r.payment_id = c.payment_id and r.capture_id = c.capture_id
                  and r.kind <> 'mirrored' and r.state in ('requested', 'pending', 'completed'))",
    },
    Check {
        name: "refunded-within-bought",
        sentence: "no more units of a line are paid back than were bought",
        sql: "select format('line %s of order %s: bought %s, paid back %s', b.line, b.order_id, b.bought, r.back)
              from (
                  select order_id, line, sum(quantity) as bought from reservation where line in (part, split_of)
                  group by order_id, line
              ) b join (
                  select r.order_id, (u ->> 'line')::int as line, sum((u ->> 'quantity')::bigint) as back
                  from refund r cross join lateral jsonb_array_elements(r.lines) u
                  where r.kind = 'lines' and r.state in ('requested', 'pending', 'completed')
                  group by r.order_id, (u ->> 'line')::int
              ) r using (order_id, line)
              where r.back > b.bought",
    },
    Check {
        name: "shipping-refunded-once",
        sentence: "no more is given back for sending than sending cost",
        sql: "select format('order %s: sending %s, given back %s', o.id, o.shipping_minor, r.back)
              from customer_order o join (
                  select order_id, sum(amount_minor) as back from refund
                  where kind = 'shipping' and state in ('requested', 'pending', 'completed') group by order_id
              ) r on r.order_id = o.id
              where r.back > o.shipping_minor",
    },
    Check {
        name: "reserved-has-an-end",
        sentence: "an order that is over lets go what was reserved for it",
        sql: "select format('payment %s of order %s (%s)', p.id, o.id, o.status)
              from payment p join customer_order o on o.id = p.order_id
              where p.state = 'authorised' and o.status in ('expired', 'cancelling', 'cancelled') and not exists (
                  select from task t where t.payment_id = p.id and t.kind = 'void' and t.state = 'open')",
    },
    Check {
        name: "cancelling-goes-on",
        sentence: "an order that is being undone waits for money that is on its way",
        sql: "select format('order %s', o.id) from customer_order o where o.status = 'cancelling'
              and not exists (select from task t where t.order_id = o.id and t.state = 'open')
              and not exists (select from payment p where p.order_id = o.id and p.state = 'pending')
              and not exists (select from refund r where r.order_id = o.id and r.state in ('requested', 'pending'))",
    },
    Check {
        name: "disputed-is-held",
        sentence: "a disputed order is held back, unless staff have released it",
        sql: "select format('order %s', o.id) from customer_order o join payment p on p.order_id = o.id
              where p.state = 'disputed' and o.status = 'confirmed' and o.hold_reason is null and not exists (
                  select from order_event e where e.order_id = o.id and e.kind = 'released' and e.who = 'staff')",
    },
    Check {
        name: "task-stuck",
        sentence: "every provider call is answered within five minutes of its time",
        sql: "select format('task %s (%s) of order %s, due %s, %s attempts: %s', id, kind, order_id, due_at, attempts, last_error)
              from task where state = 'open' and due_at < $1 - interval '5 minutes'",
    },
    Check {
        name: "capture-stuck",
        sentence: "a payment that is being charged or reserved has a call under way",
        sql: "select format('payment %s of order %s', p.id, p.order_id) from payment p where p.state = 'capturing'
              and not exists (select from task t where t.payment_id = p.id and t.state = 'open'
                  and t.kind in ('capture', 'authorise', 'capture_authorised'))",
    },
    Check {
        name: "refund-stuck",
        sentence: "a refund that the provider does not know yet has a call under way",
        sql: "select format('refund %s of order %s', r.id, r.order_id) from refund r where r.state = 'requested'
              and not exists (select from task t where t.refund_id = r.id and t.state = 'open')",
    },
    Check {
        name: "webhook-unprocessed",
        sentence: "a webhook of a known payment or parcel is dealt with within a minute",
        sql: "select format('inbox %s (%s), received %s, %s attempts', i.id, i.event_type, i.received_at, i.attempts) from inbox i
              where i.processed_at is null and i.received_at < $1 - interval '1 minute' and (exists (
                  select from payment p where p.provider = i.provider and (
                      p.provider_order_id = i.locator ->> 'provider_order_id')) or exists (
                  select from shipment s where s.service ->> 'provider' = i.provider
                  and s.tracking_number = i.locator ->> 'tracking_number'
                  and (i.locator ->> 'carrier' is null or s.carrier = i.locator ->> 'carrier')))",
    },
    Check {
        name: "import-is-lines",
        sentence: "an import's tally is what became of its lines",
        sql: "select format('import %s is %s: %s of %s applied, %s failed; lines %s, %s, %s', i.id, i.state, i.applied, i.total,
                  i.failed, l.applied, l.failed, l.pending)
              from stock_import i left join (
                  select import_id, count(*) filter (where state = 'applied') as applied,
                      count(*) filter (where state = 'failed') as failed, count(*) filter (where state = 'pending') as pending
                  from stock_import_line group by import_id
              ) l on l.import_id = i.id
              where i.state in ('applying', 'done') and ((i.applied, i.failed, i.total - i.applied - i.failed)
                  is distinct from (l.applied, l.failed, l.pending) or (i.state = 'done') <> (l.pending = 0))",
    },
    Check {
        name: "news-overdue",
        sentence: "news that are due are told, or tried, within five minutes",
        sql: "select format('notice %s (%s, %s) of order %s, due %s, %s attempts: %s', id, channel, kind, order_id, next_at,
                  attempts, last_error)
              from outbox o where state = 'open' and next_at < $1 - interval '5 minutes' and not exists (
                  select from outbox earlier where earlier.channel = o.channel and earlier.subscription_id = o.subscription_id
                  and earlier.order_id = o.order_id and earlier.state = 'open' and earlier.id < o.id)",
    },
    Check {
        name: "idle-transaction",
        sentence: "no connection sits in a transaction",
        sql: "select format('pid %s, since %s', pid, state_change) from pg_stat_activity
              where datname = current_database() and state like 'idle in transaction%'
              and clock_timestamp() - state_change > interval '5 seconds'",
    },
];

/// Where a sentence is not true.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The check's name.
    pub check: &'static str,
    /// What should be true.
    pub sentence: &'static str,
    /// Where it is not; the first twenty.
    pub rows: Vec<String>,
}

/// Tables that have grown since Postgres last counted them.
const GROWN: &str = "select string_agg(relid::regclass::text, ', ') from pg_stat_user_tables
    where schemaname = current_schema() and n_mod_since_analyze > 1000 + n_live_tup / 10 and not pg_is_in_recovery()";

/// Asks everything. An empty answer is a clean audit.
///
/// # Errors
/// Where Postgres cannot be asked.
pub async fn run(pool: &PgPool, now: DateTime<Utc>) -> Result<Vec<Finding>, sqlx::Error> {
    // every check goes through whole tables: planned for what they were before a sale, one compares each order with each
    if let Some(grown) = sqlx::query_scalar::<_, Option<String>>(GROWN).fetch_one(pool).await?
        && let Err(error) = sqlx::raw_sql(AssertSqlSafe(format!("analyze {grown}"))).execute(pool).await
    {
        tracing::warn!(%error, "an audit is planned from old statistics");
    }
    let mut findings = Vec::new();
    for check in CHECKS {
        let question = sqlx::query_scalar(check.sql);
        let question = if check.sql.contains("$1") { question.bind(now) } else { question };
        let rows: Vec<String> = question.fetch_all(pool).await?;
        if !rows.is_empty() {
            let rows = rows.into_iter().take(20).collect();
            findings.push(Finding { check: check.name, sentence: check.sentence, rows });
        }
    }
    Ok(findings)
}
