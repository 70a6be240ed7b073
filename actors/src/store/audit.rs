//! The audit: sentences that are true of every database at every moment, as questions that must find nothing.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;

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
        sentence: "an open order has its lines reserved, a closed one has none",
        sql: "select format('order %s is %s with reservations %s', o.id, o.status, array_agg(distinct r.state))
              from customer_order o join reservation r on r.order_id = o.id
              group by o.id, o.status
              having case o.status
                  when 'awaiting_payment' then not bool_or(r.state = 'held') or bool_or(r.state = 'committed')
                  when 'confirmed' then not bool_or(r.state = 'committed') or bool_or(r.state = 'held')
                  when 'expired' then bool_or(r.state in ('held', 'committed'))
                  when 'cancelled' then bool_or(r.state in ('held', 'committed'))
                  else false
              end",
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
        sentence: "a confirmed order has its money, and only it, unless staff gave some back at the provider",
        sql: "select format('order %s (%s) costs %s, captured %s, refunding %s, %s of it at the provider', o.id, o.status,
                  o.total_minor, m.captured, m.refunding, coalesce(r.given, 0))
              from customer_order o join money_of_order m on m.order_id = o.id left join (
                  select order_id, sum(amount_minor) as given from refund
                  where reason = 'made_at_provider' and state in ('requested', 'pending', 'completed') group by order_id
              ) r on r.order_id = o.id
              where o.status in ('confirmed', 'completed') and m.captured - m.refunding + coalesce(r.given, 0) <> o.total_minor",
    },
    Check {
        name: "money-has-an-end",
        sentence: "money of an order that is not confirmed goes back",
        sql: "select format('order %s is %s, captured %s, refunding %s', o.id, o.status, m.captured, m.refunding)
              from customer_order o join money_of_order m on m.order_id = o.id
              where o.status in ('expired', 'cancelled', 'awaiting_payment') and m.captured > m.refunding
              and not (o.status = 'awaiting_payment' and m.captured < o.total_minor)",
    },
    Check {
        name: "refund-within-capture",
        sentence: "never more goes back than came",
        sql: "select format('order %s: captured %s, refunding %s', order_id, captured, refunding) from money_of_order
              where refunding > captured",
    },
    Check {
        name: "task-stuck",
        sentence: "every provider call is answered within five minutes of its time",
        sql: "select format('task %s (%s) of order %s, due %s, %s attempts: %s', id, kind, order_id, due_at, attempts, last_error)
              from task where state = 'open' and due_at < $1 - interval '5 minutes'",
    },
    Check {
        name: "capture-stuck",
        sentence: "a payment that is being charged has a call under way",
        sql: "select format('payment %s of order %s', p.id, p.order_id) from payment p where p.state = 'capturing'
              and not exists (select from task t where t.payment_id = p.id and t.kind = 'capture' and t.state = 'open')",
    },
    Check {
        name: "refund-stuck",
        sentence: "a refund that the provider does not know yet has a call under way",
        sql: "select format('refund %s of order %s', r.id, r.order_id) from refund r where r.state = 'requested'
              and not exists (select from task t where t.refund_id = r.id and t.state = 'open')",
    },
    Check {
        name: "webhook-unprocessed",
        sentence: "a webhook of a known payment is dealt with within a minute",
        sql: "select format('inbox %s (%s), received %s, %s attempts', i.id, i.event_type, i.received_at, i.attempts) from inbox i
              where i.processed_at is null and i.received_at < $1 - interval '1 minute' and exists (
                  select from payment p where p.provider = i.provider and (
                      p.provider_order_id = i.locator ->> 'provider_order_id'))",
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

/// Asks everything. An empty answer is a clean audit.
///
/// # Errors
/// Where Postgres cannot be asked.
pub async fn run(pool: &PgPool, now: DateTime<Utc>) -> Result<Vec<Finding>, sqlx::Error> {
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
