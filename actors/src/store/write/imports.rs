//! Lines of stock imports: each line's outcome is written by the statement that makes its correction, so it happens once.

use sqlx::PgConnection;

use super::{column, read_counters, stock_by_moves};
use crate::{
    domain::{
        Counters, LineProblem, SkuId,
        change::{Changes, Chunk},
    },
    store::entry::Entry,
};

/// Imports whose lines are all there: from here on they are applied.
pub(super) async fn open(conn: &mut PgConnection, changes: &[(&Entry, &Changes)]) -> Result<(), sqlx::Error> {
    for (entry, change) in changes {
        let Some(import_id) = change.import else { continue };
        sqlx::query(
            "with opened as (
                 update stock_import set state = case when failed = total then 'done' else 'applying' end::import_state,
                     finished_at = case when failed = total then $2 end
                 where id = $1 and state = 'staged'
                 returning 1
             )
             select 1 / (select count(*) from opened)::int as it_was_staged",
        )
        .bind(import_id)
        .bind(entry.at)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// Lines whose turn has come, import by import: a batch seldom has more than one.
pub(super) async fn chunks(
    conn: &mut PgConnection,
    mut base: i64,
    changes: &[(&Entry, &Changes)],
    counters: &mut Vec<(SkuId, Counters)>,
) -> Result<(), sqlx::Error> {
    for (entry, change) in changes {
        if let Some(chunk) = &change.chunk {
            apply(conn, base, entry, chunk, counters).await?;
            base += chunk.turns.len() as i64;
        }
    }
    Ok(())
}

/// Lines that are still pending, decided against the locked counters, then settled together with the ledger rows, the
/// counters that follow from those, and the import's own tally.
async fn apply(
    conn: &mut PgConnection,
    base: i64,
    entry: &Entry,
    Chunk { import_id, turns }: &Chunk,
    counters: &mut Vec<(SkuId, Counters)>,
) -> Result<(), sqlx::Error> {
    let row = sqlx::query(concat!(
        "with want as materialized (
             select w.* from unnest($2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::text[])
                 with ordinality as w(line, sku_id, delta, expected, note, problem, detail, n)
             join stock_import_line l on l.import_id = $1 and l.line = w.line and l.state = 'pending'
         ), found as materialized (
             select sku_id, on_hand from stock where sku_id = any($3) order by sku_id for update
         ), decided as materialized (
             select w.line, w.sku_id, w.delta, w.note, w.n,
                 coalesce(w.problem, case when f.on_hand <> w.expected then $9 end) as problem,
                 coalesce(w.detail, case when f.on_hand <> w.expected
                     then format('%s are on hand, not %s', f.on_hand, w.expected) end) as detail
             from want w join found f using (sku_id)
         ), written as (
             insert into ledger (id, sku_id, d_on_hand, d_reserved, cause, note, who, at)
             select $10 + n, sku_id, delta, 0, 'adjust', note, $11, $12 from decided where problem is null and delta <> 0
             returning sku_id, d_on_hand, d_reserved
         ), settled as (
             update stock_import_line l
             set state = case when d.problem is null then 'applied' else 'failed' end::import_line_state,
                 problem = d.problem, detail = d.detail
             from decided d
             where l.import_id = $1 and l.line = d.line
         ), told as (
             update stock_import i
             set applied = i.applied + t.applied, failed = i.failed + t.failed,
                 state = case when i.applied + i.failed + t.settled = i.total then 'done' else i.state end,
                 finished_at = case when i.applied + i.failed + t.settled = i.total then $12 end
             from (
                 select count(*)::int as settled, count(*) filter (where problem is null)::int as applied,
                     count(problem)::int as failed
                 from decided
             ) t
             where i.id = $1 and i.state = 'applying'
         ), ",
        stock_by_moves!("select sku_id, d_on_hand, d_reserved, 0 as d_unpaid from written"),
        "
         select answer.*, 1 / ((select count(*) from want) = (select count(*) from decided))::int as every_sku_was_there
         from answer"
    ))
    .bind(import_id)
    .bind(column(turns, |turn| turn.line))
    .bind(column(turns, |turn| turn.sku_id.0))
    .bind(column(turns, |turn| turn.delta))
    .bind(column(turns, |turn| turn.expected))
    .bind(column(turns, |turn| turn.note.as_str()))
    .bind(column(turns, |turn| turn.problem.as_ref().map(|(problem, _)| problem.as_str())))
    .bind(column(turns, |turn| turn.problem.as_ref().map(|(_, detail)| detail.as_str())))
    .bind(LineProblem::Changed.as_str())
    .bind(base)
    .bind(entry.who.as_str())
    .bind(entry.at)
    .fetch_one(conn)
    .await?;
    read_counters(&row, counters)
}
