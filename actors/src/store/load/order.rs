//! An order with all that decisions about it need.

use sqlx::{PgPool, Row, postgres::PgRow};

use super::{json, odd, parcels, word};
use crate::domain::{
    About, Address, Created, Currency, Customer, Email, Fact, Money, Order, OrderId, Part, Payment, PaymentId, Refund,
    RefundId, SaleId, SaleShare, Service, ShipmentId, Task, TaskId, Units,
};

/// An order with all that decisions about it need. Of most orders there are no refunds, parcels and open calls: which of
/// them there are is read with its row, and nothing is asked about the others.
///
/// `state::text`: as an enum it fits `task_due`, and the open calls of all orders would be read to find those of one.
///
/// The version is read first: should the order move while the rest is read, the next decision meets the journal's fence,
/// changes nothing and loads again.
pub(crate) async fn order(pool: &PgPool, order_id: OrderId) -> Result<Option<Order>, sqlx::Error> {
    let Some(row) = sqlx::query(
        "select version, status::text, hold_reason, email, address, currency, total_minor, shipping_minor, shipping, deadline,
             hold_ends_at, created_at,
             (select coalesce(max(seq), 1) from order_event e where e.order_id = o.id) as last_event,
             exists (select from payment p where p.order_id = o.id) as has_payments,
             exists (select from refund r where r.order_id = o.id) as has_refunds,
             exists (select from task t where t.order_id = o.id and t.state::text = 'open') as has_tasks,
             exists (select from shipment s where s.order_id = o.id) as has_shipments,
             exists (select from goods_return g where g.order_id = o.id) as has_returns
         from customer_order o where id = $1",
    )
    .bind(order_id)
    .fetch_optional(pool)
    .await?
    else {
        return Ok(None);
    };
    let has = |what: &str| row.try_get::<bool, _>(what);
    let currency: Currency = word(&row, "currency")?;
    let order = Order {
        id: order_id,
        version: row.try_get("version")?,
        last_event: row.try_get("last_event")?,
        status: word(&row, "status")?,
        hold_reason: row.try_get("hold_reason")?,
        deadline: row.try_get("deadline")?,
        hold_ends_at: row.try_get("hold_ends_at")?,
        created_at: row.try_get("created_at")?,
        total: Money::new(row.try_get("total_minor")?, currency),
        shipping_minor: row.try_get("shipping_minor")?,
        service: row.try_get::<Option<&str>, _>("shipping")?.map(json::<Service>).transpose()?,
        email: Email::stored(row.try_get("email")?),
        ship_to: json::<Address>(row.try_get("address")?)?,
        parts: parts(pool, order_id).await?,
        payments: if has("has_payments")? { payments(pool, order_id).await? } else { Vec::new() },
        refunds: if has("has_refunds")? { refunds(pool, order_id).await? } else { Vec::new() },
        tasks: if has("has_tasks")? { tasks(pool, order_id, currency).await? } else { Vec::new() },
        shipments: if has("has_shipments")? { parcels::shipments(pool, order_id).await? } else { Vec::new() },
        returns: if has("has_returns")? { parcels::returns(pool, order_id).await? } else { Vec::new() },
    };
    Ok(Some(order))
}

async fn parts(pool: &PgPool, order_id: OrderId) -> Result<Vec<Part>, sqlx::Error> {
    let rows = sqlx::query(
        "select part, line, sku_id, quantity, unit_price_minor, state::text, split_of, sale_id, customer from reservation
         where order_id = $1 order by part",
    )
    .bind(order_id)
    .fetch_all(pool)
    .await?;
    let read = |row: &PgRow| {
        Ok(Part {
            part: row.try_get("part")?,
            line: row.try_get("line")?,
            sku_id: row.try_get("sku_id")?,
            quantity: row.try_get("quantity")?,
            unit_price_minor: row.try_get("unit_price_minor")?,
            state: word(row, "state")?,
            split_of: row.try_get("split_of")?,
            share: share(row)?,
        })
    };
    rows.iter().map(read).collect()
}

fn share(row: &PgRow) -> Result<Option<SaleShare>, sqlx::Error> {
    let Some(sale_id) = row.try_get::<Option<SaleId>, _>("sale_id")? else { return Ok(None) };
    let customer = row.try_get::<Option<Vec<u8>>, _>("customer")?;
    let customer =
        customer.map(|bytes| Customer::from_bytes(&bytes).ok_or_else(|| odd("a customer of another length")));
    Ok(Some(SaleShare { sale_id, customer: customer.transpose()? }))
}

async fn payments(pool: &PgPool, order_id: OrderId) -> Result<Vec<Payment>, sqlx::Error> {
    let rows = sqlx::query(
        "select id, provider, intent, provider_order_id, approve_url, state::text, check_at, checks, created_at
         from payment where order_id = $1 order by id",
    )
    .bind(order_id)
    .fetch_all(pool)
    .await?;
    let mut payments = Vec::with_capacity(rows.len());
    for row in &rows {
        let id: PaymentId = row.try_get("id")?;
        let announced = row
            .try_get::<Option<String>, _>("provider_order_id")?
            .zip(row.try_get::<Option<String>, _>("approve_url")?)
            .map(|(provider_order_id, approve_url)| Created { provider_order_id, approve_url });
        payments.push(Payment {
            id,
            provider: row.try_get("provider")?,
            intent: word(row, "intent")?,
            state: word(row, "state")?,
            announced,
            created_at: row.try_get("created_at")?,
            check_at: row.try_get("check_at")?,
            checks: row.try_get("checks")?,
            facts: facts(pool, id).await?,
        });
    }
    Ok(payments)
}

async fn facts(pool: &PgPool, payment_id: PaymentId) -> Result<Vec<Fact>, sqlx::Error> {
    let rows = sqlx::query(
        "select kind, object_id, status, at, amount_minor, currency, parent from payment_fact
         where payment_id = $1 order by seen_at, at",
    )
    .bind(payment_id)
    .fetch_all(pool)
    .await?;
    let read = |row: &PgRow| {
        let amount = row
            .try_get::<Option<i64>, _>("amount_minor")?
            .zip(row.try_get::<Option<String>, _>("currency")?)
            .map(|(minor, currency)| Ok::<_, sqlx::Error>(Money::new(minor, currency.parse().map_err(odd)?)))
            .transpose()?;
        Ok(Fact {
            kind: word(row, "kind")?,
            object_id: row.try_get("object_id")?,
            status: word(row, "status")?,
            amount,
            reference: None, // was weighed when the fact was new
            parent: row.try_get("parent")?,
            at: row.try_get("at")?,
        })
    };
    rows.iter().map(read).collect()
}

async fn refunds(pool: &PgPool, order_id: OrderId) -> Result<Vec<Refund>, sqlx::Error> {
    let rows = sqlx::query(
        "select id, payment_id, capture_id, amount_minor, currency, kind, lines, reason, state::text, provider_refund_id,
             command_id, replaces
         from refund where order_id = $1 order by id",
    )
    .bind(order_id)
    .fetch_all(pool)
    .await?;
    let read = |row: &PgRow| {
        Ok(Refund {
            id: RefundId(row.try_get("id")?),
            payment_id: row.try_get("payment_id")?,
            capture_id: row.try_get("capture_id")?,
            amount: Money::new(row.try_get("amount_minor")?, word(row, "currency")?),
            kind: word(row, "kind")?,
            lines: row.try_get::<sqlx::types::Json<Vec<Units>>, _>("lines")?.0,
            reason: row.try_get("reason")?,
            state: word(row, "state")?,
            provider_refund_id: row.try_get("provider_refund_id")?,
            command_id: row.try_get("command_id")?,
            replaces: row.try_get::<Option<i64>, _>("replaces")?.map(RefundId),
        })
    };
    rows.iter().map(read).collect()
}

async fn tasks(pool: &PgPool, order_id: OrderId, currency: Currency) -> Result<Vec<Task>, sqlx::Error> {
    let rows = sqlx::query(
        "select id, payment_id, refund_id, shipment_id, kind::text, amount_minor, attempts, due_at, created_at,
             coalesce(last_error ~ '^(declined|dead|rejected): ', false) as refused
         from task where order_id = $1 and state::text = 'open' order by id",
    )
    .bind(order_id)
    .fetch_all(pool)
    .await?;
    let read = |row: &PgRow| {
        Ok(Task {
            id: row.try_get::<TaskId, _>("id")?,
            about: about(row)?,
            kind: word(row, "kind")?,
            amount: row.try_get::<Option<i64>, _>("amount_minor")?.map(|minor| Money::new(minor, currency)),
            attempts: row.try_get("attempts")?,
            refused: row.try_get("refused")?,
            due_at: row.try_get("due_at")?,
            created_at: row.try_get("created_at")?,
        })
    };
    rows.iter().map(read).collect()
}

fn about(row: &PgRow) -> Result<About, sqlx::Error> {
    let payment_id = row.try_get::<Option<i64>, _>("payment_id")?.map(PaymentId);
    let refund_id = row.try_get::<Option<i64>, _>("refund_id")?.map(RefundId);
    let shipment_id = row.try_get::<Option<i64>, _>("shipment_id")?.map(ShipmentId);
    match (payment_id, refund_id, shipment_id) {
        (Some(payment_id), None, None) => Ok(About::Payment(payment_id)),
        (Some(payment_id), Some(refund_id), None) => Ok(About::Refund(payment_id, refund_id)),
        (None, None, Some(shipment_id)) => Ok(About::Shipment(shipment_id)),
        _ => Err(odd("a task about nothing")),
    }
}
