//! The journal's statements: a batch of entries becomes one set-based statement per kind of row.
//!
//! A batch of checkouts alone is a single statement and its own transaction: one round trip, one fsync. A batch that also
//! moves orders opens a transaction, and the statements follow in a fixed order: journal, keys, orders, stock, the rest.
//!
//! Conflicts are data. A taken key or a stale version takes its entry out of the batch, and every later row of the batch is
//! derived from the entries that are left. Stock changes by sums of the ledger rows written in the same statement, so the
//! books cannot differ; a row that should be there and is not fails the batch (a division by zero names the statement).

use std::ops::Range;

use sqlx::{Executor, PgConnection, Row, postgres::PgRow, types::Uuid};

use super::{entry::Entry, ids};
use crate::domain::{Counters, SkuId, change::Changes};

/// What a committed batch changed and left out.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// The entries that were taken out, by [`Entry::conflict_id`]: their key was taken, or their order had moved on.
    pub conflicts: Vec<i64>,
    /// The counters after the batch, of every SKU it touched.
    pub counters: Vec<(SkuId, Counters)>,
}

/// Why a batch changed nothing, or nobody knows.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The journal's row is at another epoch or number: this batch changed nothing.
    #[error("fenced by the journal's row")]
    Fenced,
    /// Postgres said no, or is gone.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Ledger numbers for the journal's own use, leased in blocks that last for seconds at full speed.
pub(crate) struct LedgerIds(Range<i64>);

impl LedgerIds {
    const BLOCK: i64 = 1_000_000;

    pub(crate) fn new() -> Self {
        Self(0..0)
    }

    async fn base(&mut self, conn: &mut PgConnection, rows: i64) -> Result<i64, sqlx::Error> {
        if self.0.end - self.0.start < rows {
            self.0 = ids::lease(&mut *conn, "ledger", 1, Self::BLOCK.max(rows)).await?;
        }
        let base = self.0.start;
        self.0.start += rows;
        Ok(base)
    }
}

/// Writes a batch. `Ok` means committed.
pub(crate) async fn batch(
    conn: &mut PgConnection,
    fence: Fence,
    ledger: &mut LedgerIds,
    entries: &[Entry],
) -> Result<Written, WriteError> {
    let rows = entries.iter().map(|entry| entry.weight() as i64).sum();
    let base = ledger.base(conn, rows).await?;
    if entries.iter().all(|entry| entry.changes.is_none()) {
        return place(conn, PLACE_ALONE, fence, base, &entries.iter().collect::<Vec<_>>()).await;
    }
    conn.execute("begin").await?;
    let written = in_transaction(conn, fence, base, entries).await;
    match written {
        Ok(written) => {
            conn.execute("commit").await?;
            Ok(written)
        }
        Err(error) => {
            // a connection that is gone rolls back by itself
            conn.execute("rollback").await.ok();
            Err(error)
        }
    }
}

/// The journal's row as this engine left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fence {
    /// Raised by every newer engine, and by this one after a lost connection.
    pub epoch: i64,
    /// The last committed batch.
    pub seq: i64,
}

async fn in_transaction(
    conn: &mut PgConnection,
    fence: Fence,
    mut base: i64,
    entries: &[Entry],
) -> Result<Written, WriteError> {
    raise(conn, fence).await?;
    let mut conflicts = keys(conn, entries).await?;
    let keyed: Vec<&Entry> = entries.iter().filter(|entry| !refers(entry, &conflicts)).collect();
    conflicts.append(&mut order_moves(conn, &keyed).await?);
    let moved: Vec<&Entry> = keyed.into_iter().filter(|entry| !refers(entry, &conflicts)).collect();

    let mut placed = place(conn, PLACE_WITHIN, fence, base, &moved).await?;
    base += moved.iter().map(|entry| entry.lines.len() as i64).sum::<i64>();
    conflicts.append(&mut placed.conflicts);
    let mut counters = placed.counters;

    // a checkout that lost its key to another brings no payment along
    let live = moved.into_iter().filter(|entry| !refers(entry, &conflicts));
    let changes: Vec<(&Entry, &Changes)> =
        live.filter_map(|entry| entry.changes.as_deref().map(|changes| (entry, changes))).collect();
    base = parts(conn, base, &changes, &mut counters).await?;
    base = openings(conn, base, &changes, &mut counters).await?;
    adjustments(conn, base, &changes, &mut counters).await?;
    events(conn, &changes).await?;
    payments(conn, &changes).await?;
    facts(conn, &changes).await?;
    refunds(conn, &changes).await?;
    tasks(conn, &changes).await?;
    inbox(conn, &changes).await?;
    remember_conflicts(conn, &conflicts).await?;
    Ok(Written { conflicts, counters })
}

fn refers(entry: &Entry, conflicts: &[i64]) -> bool {
    !conflicts.is_empty() && entry.conflict_id().is_some_and(|id| conflicts.contains(&id))
}

async fn raise(conn: &mut PgConnection, fence: Fence) -> Result<(), WriteError> {
    let raised = sqlx::query("update journal set seq = seq + 1 where id = 1 and epoch = $1 and seq = $2")
        .bind(fence.epoch)
        .bind(fence.seq)
        .execute(conn)
        .await?;
    if raised.rows_affected() == 1 { Ok(()) } else { Err(WriteError::Fenced) }
}

/// Keys of entries that place no order (those are part of `place`). Returns the ids of those taken before.
async fn keys(conn: &mut PgConnection, entries: &[Entry]) -> Result<Vec<i64>, sqlx::Error> {
    let keyed = entries.iter().filter(|entry| entry.place.is_none());
    let keyed: Vec<_> = keyed.filter_map(|entry| entry.key.as_ref().map(|key| (entry, key))).collect();
    if keyed.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_scalar(
        "with want as (
             select * from unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bigint[], $6::timestamptz[])
                 as w(principal, key, route, fingerprint, ref_id, at)
         ), kept as (
             insert into idempotency (principal, key, route, fingerprint, ref_id, created_at)
             select principal, key, route, fingerprint, ref_id, at from want
             on conflict (principal, key) do nothing
             returning ref_id
         )
         select ref_id from want where ref_id not in (select ref_id from kept)",
    )
    .bind(column(&keyed, |(_, key)| key.principal.as_str()))
    .bind(column(&keyed, |(_, key)| key.key.as_str()))
    .bind(column(&keyed, |(_, key)| key.route))
    .bind(column(&keyed, |(_, key)| key.fingerprint.as_slice()))
    .bind(column(&keyed, |(_, key)| key.ref_id))
    .bind(column(&keyed, |(entry, _)| entry.at))
    .fetch_all(conn)
    .await
}

/// Orders move where they still are what the decision saw. Returns those that had moved on.
async fn order_moves(conn: &mut PgConnection, entries: &[&Entry]) -> Result<Vec<i64>, sqlx::Error> {
    let moves: Vec<_> = entries.iter().filter_map(|e| e.changes.as_ref().and_then(|c| c.order.as_ref())).collect();
    if moves.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_scalar(
        "with want as (
             select * from unnest($1::bigint[], $2::int[], $3::text[], $4::timestamptz[]) as w(id, expected, status, deadline)
         ), moved as (
             update customer_order o
             set version = w.expected + 1, status = w.status::order_status, deadline = w.deadline
             from want w where o.id = w.id and o.version = w.expected
             returning o.id
         )
         select id from want where id not in (select id from moved)",
    )
    .bind(column(&moves, |moved| moved.order_id.0))
    .bind(column(&moves, |moved| moved.expected))
    .bind(column(&moves, |moved| moved.status.as_str()))
    .bind(column(&moves, |moved| moved.deadline))
    .fetch_all(conn)
    .await
}

/// The end of every statement that writes ledger rows: counters move by their sums, and every SKU must be there.
macro_rules! stock_by_ledger {
    () => {
        "sums as materialized (
             select sku_id, sum(d_on_hand)::bigint as on_hand, sum(d_reserved)::bigint as reserved
             from written group by sku_id
         ), moved_stock as (
             update stock s
             set on_hand = s.on_hand + d.on_hand, reserved = s.reserved + d.reserved, version = s.version + 1
             from sums d
             where s.sku_id = d.sku_id
             returning s.sku_id, s.on_hand, s.reserved, s.version
         ), answer as (
             select coalesce(array_agg(sku_id), '{}') as sku_ids, coalesce(array_agg(on_hand), '{}') as on_hands,
                 coalesce(array_agg(reserved), '{}') as reserveds, coalesce(array_agg(version), '{}') as versions
             from moved_stock
         )"
    };
}

/// `$1` epoch, `$2` seq; then keys, orders and lines. The fence comes first and everything selects from it.
macro_rules! place_sql {
    ($fence:literal) => {
        concat!(
            "with fence as (", $fence, "),
         want_key as (
             select k.* from fence, unnest($3::text[], $4::text[], $5::text[], $6::bytea[], $7::bigint[], $8::timestamptz[])
                 as k(principal, key, route, fingerprint, ref_id, at)
         ), kept as (
             insert into idempotency (principal, key, route, fingerprint, ref_id, created_at)
             select principal, key, route, fingerprint, ref_id, at from want_key
             on conflict (principal, key) do nothing
             returning ref_id
         ), dead as materialized (
             select ref_id from want_key except select ref_id from kept
         ), placed as (
             insert into customer_order
                 (id, version, status, email, address, currency, total_minor, deadline, created_at)
             select o.id, 1, o.status::order_status, o.email, o.address::jsonb, o.currency, o.total_minor, o.deadline, o.at
             from fence, unnest($9::bigint[], $10::text[], $11::text[], $12::text[], $13::text[], $14::bigint[],
                 $15::timestamptz[], $16::timestamptz[])
                 as o(id, status, email, address, currency, total_minor, deadline, at)
             where o.id not in (select ref_id from dead)
         ), want_line as materialized (
             select l.* from fence, unnest($17::bigint[], $18::int[], $19::int[], $20::bigint[], $21::bigint[], $22::bigint[],
                 $23::text[], $24::text[], $25::timestamptz[])
                 with ordinality as l(order_id, part, line, sku_id, quantity, unit_price_minor, state, who, at, n)
             where l.order_id not in (select ref_id from dead)
         ), reserved as (
             insert into reservation (order_id, part, line, sku_id, quantity, unit_price_minor, state)
             select order_id, part, line, sku_id, quantity, unit_price_minor, state::reservation_state from want_line
         ), written as (
             insert into ledger (id, sku_id, d_on_hand, d_reserved, cause, order_id, who, at)
             select $26 + n, sku_id, 0, quantity, 'reserve', order_id, who, at from want_line
             returning sku_id, d_on_hand, d_reserved
         ), ",
            stock_by_ledger!(),
            "
         select answer.*, (select seq from fence) as seq, array(select ref_id from dead) as dead,
             1 / (cardinality(sku_ids) = (select count(*) from sums))::int as every_sku_was_there
         from answer"
        )
    };
}

const PLACE_ALONE: &str =
    place_sql!("update journal set seq = seq + 1 where id = 1 and epoch = $1 and seq = $2 returning seq");
/// Inside a transaction the fence has been raised already.
const PLACE_WITHIN: &str = place_sql!("select seq from journal where id = 1 and epoch = $1 and seq = $2 + 1");

/// New orders with their keys, and new reservations of any order.
async fn place(
    conn: &mut PgConnection,
    sql: &'static str,
    fence: Fence,
    base: i64,
    entries: &[&Entry],
) -> Result<Written, WriteError> {
    let orders: Vec<_> = entries.iter().filter_map(|e| e.place.as_deref().map(|order| (*e, order))).collect();
    let keys: Vec<_> = orders.iter().filter_map(|(e, _)| e.key.as_ref().map(|key| (*e, key))).collect();
    let lines: Vec<_> = entries.iter().flat_map(|e| e.lines.iter().map(move |line| (*e, line))).collect();
    if sql == PLACE_WITHIN && orders.is_empty() && lines.is_empty() {
        return Ok(Written::default());
    }
    let row = sqlx::query(sql)
        .bind(fence.epoch)
        .bind(fence.seq)
        .bind(column(&keys, |(_, key)| key.principal.as_str()))
        .bind(column(&keys, |(_, key)| key.key.as_str()))
        .bind(column(&keys, |(_, key)| key.route))
        .bind(column(&keys, |(_, key)| key.fingerprint.as_slice()))
        .bind(column(&keys, |(_, key)| key.ref_id))
        .bind(column(&keys, |(entry, _)| entry.at))
        .bind(column(&orders, |(_, order)| order.order_id.0))
        .bind(column(&orders, |(_, order)| order.status.as_str()))
        .bind(column(&orders, |(_, order)| order.email.as_str()))
        .bind(column(&orders, |(_, order)| order.address.as_str()))
        .bind(column(&orders, |(_, order)| order.currency.as_str()))
        .bind(column(&orders, |(_, order)| order.total_minor))
        .bind(column(&orders, |(_, order)| order.deadline))
        .bind(column(&orders, |(entry, _)| entry.at))
        .bind(column(&lines, |(_, line)| line.order_id.0))
        .bind(column(&lines, |(_, line)| line.part))
        .bind(column(&lines, |(_, line)| line.line))
        .bind(column(&lines, |(_, line)| line.hold.sku_id().0))
        .bind(column(&lines, |(_, line)| line.hold.units()))
        .bind(column(&lines, |(_, line)| line.unit_price_minor))
        .bind(column(&lines, |(_, line)| line.state.as_str()))
        .bind(column(&lines, |(entry, _)| entry.who.as_str()))
        .bind(column(&lines, |(entry, _)| entry.at))
        .bind(base)
        .fetch_one(conn)
        .await?;
    if row.try_get::<Option<i64>, _>("seq")?.is_none() {
        return Err(WriteError::Fenced);
    }
    let mut written = Written { conflicts: row.try_get("dead")?, ..Written::default() };
    read_counters(&row, &mut written.counters)?;
    Ok(written)
}

/// Reservations that change state, the ledger rows that follow from what changed, and the counters that follow from those.
async fn parts(
    conn: &mut PgConnection,
    base: i64,
    changes: &[(&Entry, &Changes)],
    counters: &mut Vec<(SkuId, Counters)>,
) -> Result<i64, sqlx::Error> {
    let moves: Vec<_> = changes.iter().flat_map(|(e, c)| c.parts.iter().map(move |part| (*e, part))).collect();
    if moves.is_empty() {
        return Ok(base);
    }
    let row = sqlx::query(concat!(
        "with want as materialized (
             select * from unnest($1::bigint[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
                 with ordinality as w(order_id, part, was, becomes, cause, who, at, n)
         ), changed as (
             update reservation r set state = w.becomes::reservation_state
             from want w
             where r.order_id = w.order_id and r.part = w.part and r.state = w.was::reservation_state
             returning r.order_id, r.sku_id, r.quantity, r.state, w.cause, w.who, w.at, w.n
         ), written as (
             insert into ledger (id, sku_id, d_on_hand, d_reserved, cause, order_id, who, at)
             select $8 + n, sku_id, 0, case when state in ('released', 'expired') then -quantity else 0 end,
                 cause::ledger_cause, order_id, who, at
             from changed
             returning sku_id, d_on_hand, d_reserved
         ), ",
        stock_by_ledger!(),
        "
         select answer.*, 1 / ((select count(*) from changed) = (select count(*) from want))::int as every_part_was_there,
             1 / (cardinality(sku_ids) = (select count(*) from sums))::int as every_sku_was_there
         from answer"
    ))
    .bind(column(&moves, |(_, part)| part.order_id.0))
    .bind(column(&moves, |(_, part)| part.part))
    .bind(column(&moves, |(_, part)| part.from.as_str()))
    .bind(column(&moves, |(_, part)| part.to.as_str()))
    .bind(column(&moves, |(_, part)| part.cause.as_str()))
    .bind(column(&moves, |(entry, _)| entry.who.as_str()))
    .bind(column(&moves, |(entry, _)| entry.at))
    .bind(base)
    .fetch_one(conn)
    .await?;
    read_counters(&row, counters)?;
    Ok(base + moves.len() as i64)
}

/// SKUs whose stock begins. One that is open already is left as it is.
async fn openings(
    conn: &mut PgConnection,
    base: i64,
    changes: &[(&Entry, &Changes)],
    counters: &mut Vec<(SkuId, Counters)>,
) -> Result<i64, sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(e, c)| c.openings.iter().map(move |row| (*e, row))).collect();
    if rows.is_empty() {
        return Ok(base);
    }
    let row = sqlx::query(
        "with want as (
             -- one that is opened twice in a batch is opened by the first
             select distinct on (sku_id) * from unnest($1::bigint[], $2::bigint[], $3::text[], $4::timestamptz[])
                 with ordinality as w(sku_id, on_hand, who, at, n)
             order by sku_id, n
         ), opened as (
             insert into stock (sku_id, on_hand) select sku_id, on_hand from want
             on conflict (sku_id) do nothing
             returning sku_id, on_hand, reserved, version
         ), written as (
             insert into ledger (id, sku_id, d_on_hand, d_reserved, cause, who, at)
             select $5 + w.n, o.sku_id, o.on_hand, 0, 'open', w.who, w.at from opened o join want w using (sku_id)
         )
         select coalesce(array_agg(sku_id), '{}') as sku_ids, coalesce(array_agg(on_hand), '{}') as on_hands,
             coalesce(array_agg(reserved), '{}') as reserveds, coalesce(array_agg(version), '{}') as versions
         from opened",
    )
    .bind(column(&rows, |(_, row)| row.sku_id.0))
    .bind(column(&rows, |(_, row)| row.on_hand))
    .bind(column(&rows, |(entry, _)| entry.who.as_str()))
    .bind(column(&rows, |(entry, _)| entry.at))
    .bind(base)
    .fetch_one(conn)
    .await?;
    read_counters(&row, counters)?;
    Ok(base + rows.len() as i64)
}

/// Corrections of stock on hand.
async fn adjustments(
    conn: &mut PgConnection,
    base: i64,
    changes: &[(&Entry, &Changes)],
    counters: &mut Vec<(SkuId, Counters)>,
) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(e, c)| c.adjustments.iter().map(move |row| (*e, row))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let row = sqlx::query(concat!(
        "with want as materialized (
             select * from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::timestamptz[])
                 with ordinality as w(sku_id, delta, note, who, at, n)
         ), written as (
             insert into ledger (id, sku_id, d_on_hand, d_reserved, cause, note, who, at)
             select $6 + n, sku_id, delta, 0, 'adjust', note, who, at from want
             returning sku_id, d_on_hand, d_reserved
         ), ",
        stock_by_ledger!(),
        "
         select answer.*,
             1 / (cardinality(sku_ids) = (select count(*) from sums))::int as every_sku_was_there
         from answer"
    ))
    .bind(column(&rows, |(_, row)| row.sku_id.0))
    .bind(column(&rows, |(_, row)| row.delta))
    .bind(column(&rows, |(_, row)| row.note.as_str()))
    .bind(column(&rows, |(entry, _)| entry.who.as_str()))
    .bind(column(&rows, |(entry, _)| entry.at))
    .bind(base)
    .fetch_one(conn)
    .await?;
    read_counters(&row, counters)
}

async fn events(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(e, c)| c.events.iter().map(move |row| (*e, row))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into order_event (order_id, seq, kind, data, who, at)
         select order_id, seq, kind, data::jsonb, who, at
         from unnest($1::bigint[], $2::int[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])
             as w(order_id, seq, kind, data, who, at)",
    )
    .bind(column(&rows, |(_, row)| row.order_id.0))
    .bind(column(&rows, |(_, row)| row.seq))
    .bind(column(&rows, |(_, row)| row.kind))
    .bind(column(&rows, |(_, row)| row.data.to_string()))
    .bind(column(&rows, |(entry, _)| entry.who.as_str()))
    .bind(column(&rows, |(entry, _)| entry.at))
    .execute(conn)
    .await?;
    Ok(())
}

async fn payments(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(e, c)| c.payments.iter().map(move |row| (*e, row))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into payment
             (id, order_id, provider, provider_order_id, approve_url, state, check_at, checks, created_at)
         select id, order_id, provider, provider_order_id, approve_url, state::payment_state, check_at, checks, at
         from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
             $8::int[], $9::timestamptz[])
             as w(id, order_id, provider, provider_order_id, approve_url, state, check_at, checks, at)
         on conflict (id) do update
         set provider_order_id = excluded.provider_order_id, approve_url = excluded.approve_url, state = excluded.state,
             check_at = excluded.check_at, checks = excluded.checks",
    )
    .bind(column(&rows, |(_, row)| row.id.0))
    .bind(column(&rows, |(_, row)| row.order_id.0))
    .bind(column(&rows, |(_, row)| row.provider.as_str()))
    .bind(column(&rows, |(_, row)| row.announced.as_ref().map(|created| created.provider_order_id.as_str())))
    .bind(column(&rows, |(_, row)| row.announced.as_ref().map(|created| created.approve_url.as_str())))
    .bind(column(&rows, |(_, row)| row.state.as_str()))
    .bind(column(&rows, |(_, row)| row.check_at))
    .bind(column(&rows, |(_, row)| row.checks))
    .bind(column(&rows, |(entry, _)| entry.at))
    .execute(conn)
    .await?;
    Ok(())
}

async fn facts(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(e, c)| c.facts.iter().map(move |row| (*e, row))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into payment_fact (payment_id, kind, object_id, status, at, amount_minor, currency, parent, seen_at)
         select * from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bigint[], $7::text[],
             $8::text[], $9::timestamptz[])
         on conflict (payment_id, kind, object_id, status, at) do update
         set amount_minor = coalesce(payment_fact.amount_minor, excluded.amount_minor),
             currency = coalesce(payment_fact.currency, excluded.currency)",
    )
    .bind(column(&rows, |(_, (payment_id, _))| payment_id.0))
    .bind(column(&rows, |(_, (_, fact))| fact.kind.as_str()))
    .bind(column(&rows, |(_, (_, fact))| fact.object_id.as_str()))
    .bind(column(&rows, |(_, (_, fact))| fact.status.as_str()))
    .bind(column(&rows, |(_, (_, fact))| fact.at))
    .bind(column(&rows, |(_, (_, fact))| fact.amount.map(|amount| amount.minor)))
    .bind(column(&rows, |(_, (_, fact))| fact.amount.map(|amount| amount.currency.to_string())))
    .bind(column(&rows, |(_, (_, fact))| fact.parent.as_deref()))
    .bind(column(&rows, |(entry, _)| entry.at))
    .execute(conn)
    .await?;
    Ok(())
}

async fn refunds(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(e, c)| c.refunds.iter().map(move |row| (*e, row))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into refund
             (id, order_id, payment_id, capture_id, amount_minor, currency, reason, state, provider_refund_id, created_at)
         select id, order_id, payment_id, capture_id, amount_minor, currency, reason, state::refund_state,
             provider_refund_id, at
         from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::text[],
             $9::text[], $10::timestamptz[])
             as w(id, order_id, payment_id, capture_id, amount_minor, currency, reason, state, provider_refund_id, at)
         on conflict (id) do update
         set state = excluded.state, provider_refund_id = excluded.provider_refund_id",
    )
    .bind(column(&rows, |(_, row)| row.id.0))
    .bind(column(&rows, |(_, row)| row.order_id.0))
    .bind(column(&rows, |(_, row)| row.payment_id.0))
    .bind(column(&rows, |(_, row)| row.capture_id.as_str()))
    .bind(column(&rows, |(_, row)| row.amount.minor))
    .bind(column(&rows, |(_, row)| row.amount.currency.to_string()))
    .bind(column(&rows, |(_, row)| row.reason.as_str()))
    .bind(column(&rows, |(_, row)| row.state.as_str()))
    .bind(column(&rows, |(_, row)| row.provider_refund_id.as_deref()))
    .bind(column(&rows, |(entry, _)| entry.at))
    .execute(conn)
    .await?;
    Ok(())
}

async fn tasks(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(e, c)| c.tasks.iter().map(move |row| (*e, row))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into task
             (id, order_id, payment_id, refund_id, kind, state, attempts, due_at, last_error, created_at)
         select id, order_id, payment_id, refund_id, kind::task_kind, state::task_state, attempts, due_at, last_error, at
         from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::int[],
             $8::timestamptz[], $9::text[], $10::timestamptz[])
             as w(id, order_id, payment_id, refund_id, kind, state, attempts, due_at, last_error, at)
         on conflict (id) do update
         set state = excluded.state, attempts = excluded.attempts, due_at = excluded.due_at,
             last_error = coalesce(excluded.last_error, task.last_error)",
    )
    .bind(column(&rows, |(_, row)| row.id.0))
    .bind(column(&rows, |(_, row)| row.order_id.0))
    .bind(column(&rows, |(_, row)| row.payment_id.0))
    .bind(column(&rows, |(_, row)| row.refund_id.map(|refund_id| refund_id.0)))
    .bind(column(&rows, |(_, row)| row.kind.as_str()))
    .bind(column(&rows, |(_, row)| row.state.as_str()))
    .bind(column(&rows, |(_, row)| row.attempts))
    .bind(column(&rows, |(_, row)| row.due_at))
    .bind(column(&rows, |(_, row)| row.last_error.as_deref()))
    .bind(column(&rows, |(entry, _)| entry.at))
    .execute(conn)
    .await?;
    Ok(())
}

async fn inbox(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = changes.iter().flat_map(|(e, c)| c.inbox.iter().map(move |row| (*e, row))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update inbox i set processed_at = w.at, outcome = w.outcome
         from unnest($1::bigint[], $2::text[], $3::timestamptz[]) as w(id, outcome, at)
         where i.id = w.id and i.processed_at is null",
    )
    .bind(column(&rows, |(_, row)| row.inbox_id))
    .bind(column(&rows, |(_, row)| row.outcome))
    .bind(column(&rows, |(entry, _)| entry.at))
    .execute(conn)
    .await?;
    Ok(())
}

/// What an engine that never hears of this commit must still be able to find out: see [`recover`].
async fn remember_conflicts(conn: &mut PgConnection, conflicts: &[i64]) -> Result<(), sqlx::Error> {
    if conflicts.is_empty() {
        return Ok(());
    }
    sqlx::query("update journal set stale_seq = seq, stale = $1 where id = 1").bind(conflicts).execute(conn).await?;
    Ok(())
}

/// The journal's row as a new owner finds it.
#[derive(Debug)]
pub(crate) struct Found {
    pub fence: Fence,
    stale: Vec<i64>,
}

/// Takes the journal over for a new engine: whoever held it before can write no more. Waits for a transaction of the old
/// owner that is still committing.
pub(crate) async fn take_over(conn: &mut PgConnection) -> Result<(Found, Uuid), sqlx::Error> {
    let row = sqlx::query(
        "update journal set epoch = epoch + 1, owner = gen_random_uuid() where id = 1
         returning epoch, seq, stale_seq, stale, owner",
    )
    .fetch_one(conn)
    .await?;
    Ok((found(&row)?, row.try_get("owner")?))
}

/// Takes the journal over again after a lost connection; none if a newer engine has it. Waits for whatever the lost
/// connection is still committing, and keeps it from beginning anything else.
pub(crate) async fn retake(conn: &mut PgConnection, owner: Uuid) -> Result<Option<Found>, sqlx::Error> {
    let row = sqlx::query(
        "update journal set epoch = epoch + 1 where id = 1 and owner = $1 returning epoch, seq, stale_seq, stale",
    )
    .bind(owner)
    .fetch_optional(conn)
    .await?;
    row.as_ref().map(found).transpose()
}

fn found(row: &PgRow) -> Result<Found, sqlx::Error> {
    let fence = Fence { epoch: row.try_get("epoch")?, seq: row.try_get("seq")? };
    let stale_seq: i64 = row.try_get("stale_seq")?;
    let stale = if stale_seq == fence.seq { row.try_get("stale")? } else { Vec::new() };
    Ok(Found { fence, stale })
}

/// What became of a batch that was committed although the reply was lost: its conflicts are in the journal's row, or show
/// by an order that is not there; the counters are read afresh.
pub(crate) async fn recover(conn: &mut PgConnection, found: &Found, entries: &[Entry]) -> Result<Written, sqlx::Error> {
    let placed: Vec<i64> = entries.iter().filter_map(|e| e.place.as_ref().map(|place| place.order_id.0)).collect();
    let mut conflicts: Vec<i64> = sqlx::query_scalar(
        "select w.id from unnest($1::bigint[]) as w(id) where not exists (select from customer_order o where o.id = w.id)",
    )
    .bind(&placed)
    .fetch_all(&mut *conn)
    .await?;
    let touched: Vec<i64> = entries.iter().flat_map(Entry::skus).map(|sku_id| sku_id.0).collect();
    let row = sqlx::query(
        "select coalesce(array_agg(sku_id), '{}') as sku_ids, coalesce(array_agg(on_hand), '{}') as on_hands,
             coalesce(array_agg(reserved), '{}') as reserveds, coalesce(array_agg(version), '{}') as versions
         from stock where sku_id = any($1)",
    )
    .bind(&touched)
    .fetch_one(&mut *conn)
    .await?;
    conflicts.extend(&found.stale);
    let mut written = Written { conflicts, ..Written::default() };
    read_counters(&row, &mut written.counters)?;
    Ok(written)
}

fn read_counters(row: &PgRow, counters: &mut Vec<(SkuId, Counters)>) -> Result<(), sqlx::Error> {
    let sku_ids: Vec<i64> = row.try_get("sku_ids")?;
    let on_hands: Vec<i64> = row.try_get("on_hands")?;
    let reserveds: Vec<i64> = row.try_get("reserveds")?;
    let versions: Vec<i64> = row.try_get("versions")?;
    for (at, sku_id) in sku_ids.into_iter().enumerate() {
        let row = Counters { on_hand: on_hands[at], reserved: reserveds[at], version: versions[at] };
        counters.push((SkuId(sku_id), row));
    }
    Ok(())
}

/// One column of many rows, as an array for `unnest`.
fn column<'a, T, C>(rows: &'a [T], pick: impl Fn(&'a T) -> C) -> Vec<C> {
    rows.iter().map(pick).collect()
}
