//! Stock imports: staged outside the journal, for a hundred thousand lines must not stand in a buyer's way; what is to be
//! applied; and what people see of them. A staged import means nothing until the journal has opened it.

use chrono::{DateTime, Utc};
use sqlx::{PgPool, Row, postgres::PgRow};

use super::word;
use crate::domain::{BadLine, Correction, ImportId, ImportLine, ImportMode, ImportState, ImportView};

/// Rows of one insert.
const INSERT: usize = 2_000;

/// Writes an import down: staged, or rejected with nothing but its bad lines.
pub(crate) async fn stage(
    pool: &PgPool,
    import: &ImportView,
    lines: &[ImportLine],
    bad: &[BadLine],
) -> Result<(), sqlx::Error> {
    let rejected = import.state == ImportState::Rejected;
    sqlx::query(
        "insert into stock_import (id, mode, state, total, failed, created_at, finished_at)
         values ($1, $2, case when $3 then 'rejected' else 'staged' end::import_state, $4, $5, $6, $7)",
    )
    .bind(import.import_id)
    .bind(import.mode.as_str())
    .bind(rejected)
    .bind(import.total)
    .bind(import.failed)
    .bind(import.created_at)
    .bind(import.finished_at)
    .execute(pool)
    .await?;
    for some in bad.chunks(INSERT) {
        insert_bad(pool, import.import_id, some).await?;
    }
    for some in lines.chunks(INSERT) {
        insert_lines(pool, import.import_id, some).await?;
    }
    Ok(())
}

async fn insert_lines(pool: &PgPool, import_id: ImportId, lines: &[ImportLine]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into stock_import_line (import_id, line, code, sku_id, delta, expected, reason, state)
         select $1, line, code, sku_id, delta, expected, reason, 'pending'
         from unnest($2::int[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[])
             as l(line, code, sku_id, delta, expected, reason)",
    )
    .bind(import_id)
    .bind(lines.iter().map(|line| line.line).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.code.as_str()).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.sku_id.0).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.correction.delta()).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.correction.expected()).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.reason.as_str()).collect::<Vec<_>>())
    .execute(pool)
    .await?;
    Ok(())
}

async fn insert_bad(pool: &PgPool, import_id: ImportId, bad: &[BadLine]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into stock_import_line (import_id, line, code, state, problem, detail)
         select $1, line, code, 'failed', problem, detail
         from unnest($2::int[], $3::text[], $4::text[], $5::text[]) as l(line, code, problem, detail)",
    )
    .bind(import_id)
    .bind(bad.iter().map(|line| line.line).collect::<Vec<_>>())
    .bind(bad.iter().map(|line| line.code.as_str()).collect::<Vec<_>>())
    .bind(bad.iter().map(|line| line.problem.as_str()).collect::<Vec<_>>())
    .bind(bad.iter().map(|line| line.detail.as_str()).collect::<Vec<_>>())
    .execute(pool)
    .await?;
    Ok(())
}

/// Imports that have lines left, oldest first.
pub(crate) async fn open(pool: &PgPool, without: &[i64], most: i64) -> Result<Vec<ImportId>, sqlx::Error> {
    sqlx::query_scalar("select id from stock_import where state = 'applying' and id <> all ($1) order by id limit $2")
        .bind(without)
        .bind(most)
        .fetch_all(pool)
        .await
}

/// The next lines of an import that are still to be applied, behind line `after`.
pub(crate) async fn pending(
    pool: &PgPool,
    import_id: ImportId,
    after: i32,
    most: usize,
) -> Result<Vec<ImportLine>, sqlx::Error> {
    let rows = sqlx::query(
        "select l.line, l.code, l.sku_id, l.delta, l.expected, l.reason
         from stock_import i join stock_import_line l on l.import_id = i.id
         where i.id = $1 and i.state = 'applying' and l.line > $2 and l.state = 'pending' order by l.line limit $3",
    )
    .bind(import_id)
    .bind(after)
    .bind(most as i64)
    .fetch_all(pool)
    .await?;
    let read = |row: &PgRow| {
        let delta: i64 = row.try_get("delta")?;
        let expected: Option<i64> = row.try_get("expected")?;
        Ok(ImportLine {
            line: row.try_get("line")?,
            code: row.try_get("code")?,
            sku_id: row.try_get("sku_id")?,
            correction: match expected {
                Some(expected) => Correction::To { units: expected + delta, expected },
                None => Correction::By(delta),
            },
            reason: row.try_get("reason")?,
        })
    };
    rows.iter().map(read).collect()
}

/// An import, once it is more than staged.
pub(crate) async fn one(pool: &PgPool, import_id: ImportId) -> Result<Option<ImportView>, sqlx::Error> {
    let row = sqlx::query(
        "select id, mode, state::text as state, total, applied, failed, created_at, finished_at
         from stock_import where id = $1 and state <> 'staged'",
    )
    .bind(import_id)
    .fetch_optional(pool)
    .await?;
    row.as_ref().map(view).transpose()
}

/// Imports, newest first, those before `before` where it is given.
pub(crate) async fn list(pool: &PgPool, before: Option<ImportId>, most: i64) -> Result<Vec<ImportView>, sqlx::Error> {
    let rows = sqlx::query(
        "select id, mode, state::text as state, total, applied, failed, created_at, finished_at
         from stock_import where state <> 'staged' and ($1::bigint is null or id < $1) order by id desc limit $2",
    )
    .bind(before)
    .bind(most)
    .fetch_all(pool)
    .await?;
    rows.iter().map(view).collect()
}

fn view(row: &PgRow) -> Result<ImportView, sqlx::Error> {
    Ok(ImportView {
        import_id: row.try_get("id")?,
        mode: word::<ImportMode>(row, "mode")?,
        state: word::<ImportState>(row, "state")?,
        total: row.try_get("total")?,
        applied: row.try_get("applied")?,
        failed: row.try_get("failed")?,
        created_at: row.try_get("created_at")?,
        finished_at: row.try_get("finished_at")?,
    })
}

/// The failed lines of an import behind line `after`, in the file's order.
pub(crate) async fn failed(
    pool: &PgPool,
    import_id: ImportId,
    after: i32,
    most: i64,
) -> Result<Vec<BadLine>, sqlx::Error> {
    let rows = sqlx::query(
        "select line, code, problem, detail from stock_import_line
         where import_id = $1 and line > $2 and state = 'failed' order by line limit $3",
    )
    .bind(import_id)
    .bind(after)
    .bind(most)
    .fetch_all(pool)
    .await?;
    let read = |row: &PgRow| {
        Ok(BadLine {
            line: row.try_get("line")?,
            code: row.try_get("code")?,
            problem: word(row, "problem")?,
            detail: row.try_get("detail")?,
        })
    };
    rows.iter().map(read).collect()
}

/// Deletes an import that was never opened.
pub(crate) async fn discard(pool: &PgPool, import_id: ImportId) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with gone as (delete from stock_import where id = $1 and state = 'staged' returning id)
         delete from stock_import_line where import_id in (select id from gone)",
    )
    .bind(import_id)
    .execute(pool)
    .await?;
    Ok(())
}

/// Deletes imports from before `before` that came to nothing: rejected, or left half-staged by a process that died. At the
/// most `most` lines, and an import's own row with its last line.
pub(crate) async fn sweep(pool: &PgPool, before: DateTime<Utc>, most: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with waste as materialized (
             select id from stock_import where state in ('staged', 'rejected') and created_at < $1 order by created_at limit 1
         ), part as materialized (
             select import_id, line from stock_import_line where import_id in (select id from waste) limit $2
         ), gone as (
             delete from stock_import_line l using part s where l.import_id = s.import_id and l.line = s.line
         )
         delete from stock_import i using waste w where i.id = w.id and (select count(*) from part) < $2",
    )
    .bind(before)
    .bind(most)
    .execute(pool)
    .await?;
    Ok(())
}
