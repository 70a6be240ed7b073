//! Files of stock corrections: brought, followed, and their errors read.

use std::sync::Arc;

use axum::{
    Json,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use souk_actors::{
    Import,
    domain::{BadLine, ImportId, ImportMode, ImportState, ImportView, Invalid, Refusal},
};

use super::{
    State,
    extract::{Id, Query, Staff, bytes_up_to, fingerprint, idempotency_key, within},
    products::{Page, cursor, most},
};
use crate::{
    problem::{Answer, Problem},
    shop::{
        Shop,
        imports::{self, Unreadable},
    },
};

/// Errors that an answer brings along; the others are a page away.
const ERRORS: i64 = 100;

/// How a file is to be taken.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct How {
    /// What becomes of a file with bad lines: `all`, nothing of it is applied; `partial`, the good lines are.
    mode: Option<String>,
}

/// An import and how far it has come.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = StockImport)]
pub(crate) struct ImportAnswer {
    import_id: String,
    /// `all`, `partial`
    mode: String,
    /// `applying`, `done`, `rejected`
    state: String,
    /// Lines in all; of a rejected file, its good lines too.
    total: i32,
    /// Lines that are applied.
    applied: i32,
    /// Lines that are not, and will not be.
    failed: i32,
    created_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<DateTime<Utc>>,
    /// Where all failed lines are.
    errors_url: String,
}

/// An import that was taken, with the first of the lines that failed.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Taken {
    #[serde(flatten)]
    import: ImportAnswer,
    errors: Vec<ErrorRow>,
}

/// A line that failed.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct ErrorRow {
    /// Its number in the file; the header is 1.
    line: i32,
    code: String,
    /// In one word, e.g. `unknown_code`, `stock_changed`.
    problem: String,
    /// For a person.
    detail: String,
}

/// A page of imports, newest first.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Imports {
    imports: Vec<ImportAnswer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A page of failed lines, in the file's order.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Errors {
    errors: Vec<ErrorRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

impl From<ImportView> for ImportAnswer {
    fn from(view: ImportView) -> Self {
        Self {
            import_id: view.import_id.to_string(),
            mode: view.mode.to_string(),
            state: view.state.to_string(),
            total: view.total,
            applied: view.applied,
            failed: view.failed,
            created_at: view.created_at,
            finished_at: view.finished_at,
            errors_url: format!("/v1/admin/stock/imports/{}/errors", view.import_id),
        }
    }
}

impl From<BadLine> for ErrorRow {
    fn from(bad: BadLine) -> Self {
        Self { line: bad.line, code: bad.code, problem: bad.problem.to_string(), detail: bad.detail }
    }
}

/// Bring a CSV file of stock corrections: `code,delta,reason` or `code,set,expected,reason`. It is checked whole; then it is
/// applied, every line once, even across a crash. With an Idempotency-Key a retry finds the same import.
#[utoipa::path(
    post, path = "/v1/admin/stock/imports", tag = "staff", security(("staff" = [])),
    params(How, ("Idempotency-Key" = Option<String>, Header)), request_body(content = String, content_type = "text/csv"),
    responses(
        (status = 202, body = Taken, description = "Taken; with Idempotent-Replayed: true if it was before"),
        (status = 401, body = Problem), (status = 413, body = Problem), (status = 415, body = Problem),
        (status = 422, body = Problem, description = "`import_invalid` with `errors` and `errors_url`: nothing is applied")
    )
)]
pub(crate) async fn upload(
    _: Staff,
    axum::extract::State(shop): State,
    Query(how): Query<How>,
    headers: HeaderMap,
    request: Request,
) -> Answer<(StatusCode, HeaderMap, Json<Taken>)> {
    let mode = how.mode.as_deref().map_or(Ok(ImportMode::All), str::parse);
    let mode = mode.map_err(|_| Invalid::new("mode", "is all or partial"))?;
    let key = idempotency_key(&headers)?.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/csv") {
        let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_csv", "Not CSV");
        return Err(problem.detail("Send Content-Type: text/csv."));
    }
    let body = bytes_up_to(request, &shop, shop.limits.import).await?;
    // on its own: a client that goes away must not leave it half-read
    let taken = tokio::spawn(take(Arc::clone(&shop), mode, key, body));
    let (taken, replayed) = taken.await.map_err(|_| Refusal::Fault)??; // it panicked, and the panic is in the log
    let mut said = HeaderMap::new();
    if replayed {
        said.insert("idempotent-replayed", header::HeaderValue::from_static("true"));
    }
    Ok((StatusCode::ACCEPTED, said, Json(taken)))
}

async fn take(shop: Arc<Shop>, mode: ImportMode, key: String, body: Bytes) -> Answer<(Taken, bool)> {
    let fingerprint = fingerprint(&format!("import {mode}"), &Sha256::digest(&body).as_slice())?;
    let sheet = tokio::task::spawn_blocking(move || imports::read(&body)).await.map_err(|_| Refusal::Fault)?;
    let (lines, bad) = sheet.map_err(|error| unreadable(&error))?.resolve(&shop.pool).await?;
    let import = Import { principal: "staff".to_owned(), key, fingerprint, mode, lines, bad };
    let imported = shop.engine.import(import).await?;
    let view = shop.engine.stock_import(imported.import_id).await?;
    let errors = shop.engine.import_errors(imported.import_id, 0, ERRORS).await?;
    let rejected = view.state == ImportState::Rejected;
    let taken = Taken { import: view.into(), errors: errors.into_iter().map(ErrorRow::from).collect() };
    if rejected { Err(invalid(taken)) } else { Ok((taken, imported.replayed)) }
}

fn unreadable(error: &Unreadable) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "import_unreadable", "Unreadable file").detail(error.to_string())
}

fn invalid(taken: Taken) -> Problem {
    let Taken { import, errors } = taken;
    let said = format!("{} of {} lines are wrong; nothing was applied.", import.failed, import.total);
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "import_invalid", "Invalid import")
        .detail(said)
        .with("import_id", import.import_id)
        .with("total", import.total)
        .with("failed", import.failed)
        .with("errors", errors)
        .with("errors_url", import.errors_url)
}

/// Imports, newest first.
#[utoipa::path(
    get, path = "/v1/admin/stock/imports", tag = "staff", security(("staff" = [])), params(Page),
    responses((status = 200, body = Imports), (status = 401, body = Problem))
)]
pub(crate) async fn list(
    _: Staff,
    axum::extract::State(shop): State,
    Query(page): Query<Page>,
) -> Answer<Json<Imports>> {
    let most = most(page.limit)?;
    let before = cursor::<ImportId>(page.cursor.as_deref())?;
    let found = within(shop.limits.timeout, shop.engine.stock_imports(before, most)).await?;
    let next_cursor = found.last().filter(|_| found.len() as i64 == most).map(|last| last.import_id.to_string());
    Ok(Json(Imports { imports: found.into_iter().map(ImportAnswer::from).collect(), next_cursor }))
}

/// One import, and how far it has come.
#[utoipa::path(
    get, path = "/v1/admin/stock/imports/{import_id}", tag = "staff", security(("staff" = [])),
    params(("import_id" = String, Path)),
    responses((status = 200, body = ImportAnswer), (status = 401, body = Problem), (status = 404, body = Problem))
)]
pub(crate) async fn show(
    _: Staff,
    axum::extract::State(shop): State,
    Id(import_id): Id<ImportId>,
) -> Answer<Json<ImportAnswer>> {
    Ok(Json(within(shop.limits.timeout, shop.engine.stock_import(import_id)).await?.into()))
}

/// The lines of an import that failed, in the file's order.
#[utoipa::path(
    get, path = "/v1/admin/stock/imports/{import_id}/errors", tag = "staff", security(("staff" = [])),
    params(("import_id" = String, Path), Page),
    responses((status = 200, body = Errors), (status = 401, body = Problem), (status = 404, body = Problem))
)]
pub(crate) async fn errors(
    _: Staff,
    axum::extract::State(shop): State,
    Id(import_id): Id<ImportId>,
    Query(page): Query<Page>,
) -> Answer<Json<Errors>> {
    let most = most(page.limit)?;
    let after = cursor::<i32>(page.cursor.as_deref())?.unwrap_or(0);
    let failed = within(shop.limits.timeout, shop.engine.import_errors(import_id, after, most)).await?;
    let next_cursor = failed.last().filter(|_| failed.len() as i64 == most).map(|last| last.line.to_string());
    Ok(Json(Errors { errors: failed.into_iter().map(ErrorRow::from).collect(), next_cursor }))
}
