//! The journal's statements: a batch of entries becomes one set-based statement per kind of row.
//!
//! A batch of checkouts alone is a single statement and its own transaction: one round trip, one fsync. A batch that also
//! moves orders opens a transaction, and the statements follow in a fixed order: journal, keys, orders, stock, the rest.
//!
//! Conflicts are data. A taken key or a stale version takes its entry out of the batch, and every later row of the batch is
//! derived from the entries that are left. Stock changes by sums of the very moves that the same statement writes to the ledger,
//! so the books cannot differ; a row that should be there and is not fails the batch (a division by zero names the statement).

mod calls;
mod imports;
mod money;
mod notices;
mod order;
pub(crate) mod parcels;
mod place;
mod rooms;
mod sales;
mod stock;

use std::ops::Range;

use sqlx::{Executor, PgConnection, Row, postgres::PgRow, types::Uuid};

use place::Place;

use super::{
    entry::{Conflict, Entry},
    ids,
};
use crate::domain::{Counters, SkuId, change::Changes};

/// The end of every statement that writes ledger rows: counters move by the sums of the same moves, and every SKU must be
/// there. The statement says where they are: what its ledger rows say or are made of, and what that means for the units of
/// unpaid orders.
macro_rules! stock_by_moves {
    ($moves:literal) => {
        concat!("sums as materialized (
             select sku_id, sum(d_on_hand)::bigint as on_hand, sum(d_reserved)::bigint as reserved, sum(d_unpaid)::bigint as unpaid
             from (", $moves, ") moves group by sku_id
         ), moved_stock as (
             update stock s
             set on_hand = s.on_hand + d.on_hand, reserved = s.reserved + d.reserved, unpaid = s.unpaid + d.unpaid,
                 version = s.version + 1
             from sums d
             where s.sku_id = d.sku_id
             returning s.sku_id, s.on_hand, s.reserved, s.unpaid, s.version
         ), answer as (
             select coalesce(array_agg(sku_id), '{}') as sku_ids, coalesce(array_agg(on_hand), '{}') as on_hands,
                 coalesce(array_agg(reserved), '{}') as reserveds, coalesce(array_agg(unpaid), '{}') as unpaids,
                 coalesce(array_agg(version), '{}') as versions
             from moved_stock
         )")
    };
}
use stock_by_moves;

/// What a committed batch changed and left out.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// The entries that were taken out, by the ids that [`Entry::conflict`] knows: their key was taken, or their order or stock had moved on.
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

/// Numbers for rows that the journal makes itself.
pub(crate) struct Numbers {
    ledger: Series,
    notices: Series,
}

impl Numbers {
    pub(crate) fn new() -> Self {
        // blocks that last for seconds at full speed
        let ledger = Series { name: "ledger", block: 1_000_000, left: 0..0 };
        let notices = Series { name: "notice", block: 10_000, left: 0..0 };
        Self { ledger, notices }
    }
}

/// One series of numbers, leased in blocks.
struct Series {
    name: &'static str,
    block: i64,
    left: Range<i64>,
}

impl Series {
    /// The first of `rows` numbers, none of them below `floor`.
    async fn base(&mut self, conn: &mut PgConnection, floor: i64, rows: i64) -> Result<i64, sqlx::Error> {
        if self.left.end - self.left.start < rows {
            self.left = ids::lease(&mut *conn, self.name, floor, self.block.max(rows)).await?;
        }
        let base = self.left.start;
        self.left.start += rows;
        Ok(base)
    }
}

/// Writes a batch. `Ok` means committed. Where a key in it was used before after all, or a sale had no room, those entries
/// are taken out and the rest is written: looking first would cost every batch what hardly ever happens.
pub(crate) async fn batch(
    conn: &mut PgConnection,
    fence: Fence,
    numbers: &mut Numbers,
    entries: &[Entry],
) -> Result<Written, WriteError> {
    let error = match without(conn, fence, numbers, entries, Vec::new()).await {
        Err(WriteError::Database(error)) if place::may_be_used_before(&error) || sales::may_have_no_room(&error) => {
            error
        }
        settled => return settled,
    };
    let mut conflicts = place::used_before(conn, entries).await?;
    let first: Vec<&Entry> = entries.iter().filter(|entry| entry.conflict(&conflicts).is_none()).collect();
    conflicts.append(&mut sales::without_room(conn, &first).await?);
    if conflicts.is_empty() { Err(error.into()) } else { without(conn, fence, numbers, entries, conflicts).await }
}

/// Writes a batch without the entries that these conflicts take out.
async fn without(
    conn: &mut PgConnection,
    fence: Fence,
    numbers: &mut Numbers,
    entries: &[Entry],
    conflicts: Vec<i64>,
) -> Result<Written, WriteError> {
    let rows = entries.iter().map(|entry| entry.weight() as i64).sum();
    let base = numbers.ledger.base(conn, 1, rows).await?;
    if entries.iter().all(|entry| entry.changes.is_none() && entry.notices.is_empty()) {
        let live: Vec<&Entry> = entries.iter().filter(|entry| entry.conflict(&conflicts).is_none()).collect();
        let mut written = place::place(conn, Place::Alone, fence, base, &live).await?;
        written.conflicts.extend(conflicts);
        return Ok(written);
    }
    // a notice's number is what receivers tell a repetition by: a database that came back from a backup must not use one twice
    let told = entries.iter().map(|entry| entry.notices.len() as i64).sum();
    let floor = entries.first().map_or(1, |entry| entry.at.timestamp_millis());
    let notice_base = numbers.notices.base(conn, floor, told).await?;
    conn.execute("begin").await?;
    let written = in_transaction(conn, fence, base, notice_base, entries, conflicts).await;
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
    notice_base: i64,
    entries: &[Entry],
    mut conflicts: Vec<i64>,
) -> Result<Written, WriteError> {
    raise(conn, fence).await?;
    let roomy: Vec<&Entry> = entries.iter().filter(|entry| entry.conflict(&conflicts).is_none()).collect();
    conflicts.append(&mut keys(conn, &roomy).await?);
    let keyed: Vec<&Entry> = roomy.into_iter().filter(|entry| entry.conflict(&conflicts).is_none()).collect();
    conflicts.append(&mut order::moves(conn, &keyed).await?);
    give_keys_back(conn, &keyed, &conflicts).await?;
    let moved: Vec<&Entry> = keyed.into_iter().filter(|entry| entry.conflict(&conflicts).is_none()).collect();

    let mut placed = place::place(conn, Place::Within, fence, base, &moved).await?;
    base += moved.iter().map(|entry| entry.lines.len() as i64).sum::<i64>();
    conflicts.append(&mut placed.conflicts);
    let mut counters = placed.counters;

    // a checkout that lost its key to another brings no payment along
    let live: Vec<&Entry> = moved.into_iter().filter(|entry| entry.conflict(&conflicts).is_none()).collect();
    let changes: Vec<(&Entry, &Changes)> =
        live.iter().filter_map(|entry| entry.changes.as_deref().map(|changes| (*entry, changes))).collect();
    stock::splits(conn, &changes).await?;
    base = stock::parts(conn, base, &changes, &mut counters).await?;
    base = stock::openings(conn, base, &changes, &mut counters).await?;
    let mut unmet = stock::unmet(conn, &changes).await?;
    unmet.append(&mut sales::sales(conn, &changes).await?);
    give_keys_back(conn, &changes.iter().map(|(entry, _)| *entry).collect::<Vec<_>>(), &unmet).await?;
    let changes: Vec<_> = changes.into_iter().filter(|(entry, _)| entry.conflict(&unmet).is_none()).collect();
    conflicts.extend(unmet);
    base = stock::adjustments(conn, base, &changes, &mut counters).await?;
    imports::chunks(conn, base, &changes, &mut counters).await?;
    imports::open(conn, &changes).await?;
    order::events(conn, &changes).await?;
    money::payments(conn, &changes).await?;
    money::facts(conn, &changes).await?;
    money::refunds(conn, &changes).await?;
    parcels::shipments(conn, &changes).await?;
    parcels::tracking(conn, &changes).await?;
    parcels::returns(conn, &changes).await?;
    calls::tasks(conn, &changes).await?;
    calls::inbox(conn, &changes).await?;
    rooms::rooms(conn, &changes).await?;
    rooms::tickets(conn, &changes).await?;
    notices::notices(conn, notice_base, &live).await?;
    notices::marks(conn, &changes).await?;
    notices::attempts(conn, &changes).await?;
    notices::replays(conn, &changes).await?;
    notices::subscriptions(conn, &changes).await?;
    notices::unsubscribed(conn, &changes).await?;
    remember_conflicts(conn, &conflicts).await?;
    Ok(Written { conflicts, counters })
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
async fn keys(conn: &mut PgConnection, entries: &[&Entry]) -> Result<Vec<i64>, sqlx::Error> {
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

/// Entries whose order or stock had moved on leave no key behind: decided again, they take it again.
async fn give_keys_back(conn: &mut PgConnection, keyed: &[&Entry], conflicts: &[i64]) -> Result<(), sqlx::Error> {
    let stale = keyed.iter().filter(|entry| entry.conflict(conflicts) == Some(Conflict::Stale));
    let unused: Vec<i64> = stale.filter_map(|entry| entry.key.as_ref().map(|key| key.ref_id)).collect();
    if unused.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "delete from idempotency i using unnest($1::text[], $2::text[]) as w(principal, key)
         where i.principal = w.principal and i.key = w.key and i.ref_id = any($3)",
    )
    .bind(column(keyed, |entry| entry.key.as_ref().map(|key| key.principal.as_str())))
    .bind(column(keyed, |entry| entry.key.as_ref().map(|key| key.key.as_str())))
    .bind(unused)
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
/// by an order that is not there, whose key another one has taken or whose sale had no room; the counters are read afresh.
pub(crate) async fn recover(conn: &mut PgConnection, found: &Found, entries: &[Entry]) -> Result<Written, sqlx::Error> {
    let placed: Vec<_> =
        entries.iter().filter_map(|e| e.place.as_deref().zip(e.key.as_ref()).map(|p| (e, p))).collect();
    let mut conflicts: Vec<i64> = sqlx::query_scalar(
        "select case when look_id = 0 or exists (
                 select from idempotency i where i.principal = w.principal and i.key = w.key) then w.id else w.look_id end
         from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[]) as w(id, look_id, principal, key)
         where not exists (select from customer_order o where o.id = w.id)",
    )
    .bind(column(&placed, |(_, (place, _))| place.order_id.0))
    .bind(column(&placed, |(entry, _)| entry.look_id))
    .bind(column(&placed, |(_, (_, key))| key.principal.as_str()))
    .bind(column(&placed, |(_, (_, key))| key.key.as_str()))
    .fetch_all(&mut *conn)
    .await?;
    let touched: Vec<i64> = entries.iter().flat_map(Entry::skus).map(|sku_id| sku_id.0).collect();
    let row = sqlx::query(
        "select coalesce(array_agg(sku_id), '{}') as sku_ids, coalesce(array_agg(on_hand), '{}') as on_hands,
             coalesce(array_agg(reserved), '{}') as reserveds, coalesce(array_agg(unpaid), '{}') as unpaids,
             coalesce(array_agg(version), '{}') as versions
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
    let unpaids: Vec<i64> = row.try_get("unpaids")?;
    let versions: Vec<i64> = row.try_get("versions")?;
    for (at, sku_id) in sku_ids.into_iter().enumerate() {
        let [on_hand, reserved, unpaid, version] = [on_hands[at], reserveds[at], unpaids[at], versions[at]];
        counters.push((SkuId(sku_id), Counters { on_hand, reserved, unpaid, version }));
    }
    Ok(())
}

/// One column of many rows, as an array for `unnest`.
fn column<'a, T, C>(rows: &'a [T], pick: impl Fn(&'a T) -> C) -> Vec<C> {
    rows.iter().map(pick).collect()
}
