//! What can go wrong inside, sorted by what follows from it.

use crate::domain::Refusal;

/// Whether Postgres is away (or asks to try again) rather than of another opinion.
#[must_use]
pub(crate) fn is_away(error: &sqlx::Error) -> bool {
    // connection exceptions, resources, operator intervention (shutdown), lock not available
    let away = ["08", "53", "57", "55P03"];
    let pool = matches!(error, sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed);
    pool || is_broken(error) || has_code(error, &away)
}

/// Whether the connection is of no more use, so that nobody knows what became of a commit on it.
#[must_use]
pub(crate) fn is_cut(error: &sqlx::Error) -> bool {
    // connection exceptions, shutdown, a server that has become read-only (a former primary), an idle transaction ended
    let cut = ["08", "57P", "25006", "25P03"];
    is_broken(error) || has_code(error, &cut)
}

/// Whether the same again, later, may well succeed: serialisation, deadlock, resources, locks.
#[must_use]
pub(crate) fn is_passing(error: &sqlx::Error) -> bool {
    has_code(error, &["40", "53", "55P03", "57014"])
}

/// Whether the connection itself failed.
fn is_broken(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed)
}

/// Whether Postgres gave one of these SQLSTATEs, or one of these classes.
fn has_code(error: &sqlx::Error, codes: &[&str]) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| codes.iter().any(|known| code.starts_with(known)))
}

/// A failed read, as an answer: 503 while Postgres is away, else a fault, logged here once.
#[must_use]
pub fn refusal(error: &sqlx::Error) -> Refusal {
    if is_away(error) {
        return Refusal::Away("the database cannot be reached");
    }
    tracing::error!(%error, "a read failed");
    Refusal::Fault
}
