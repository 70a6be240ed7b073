//! Whether the shop has kept its word: a journal of acknowledgements is held against its orders, its stock, its ledger and
//! its own audit.

mod orders;
mod stock;

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{
    diary::Chapter,
    staff::{Staff, Trouble},
};

/// Findings of one check that are told; how many there are is always told.
const TOLD: usize = 20;
/// How long the audit may take to become clean: webhooks and deadlines may be under way.
const AUDIT: Duration = Duration::from_secs(75);
const LOOK: Duration = Duration::from_secs(1);

/// What was looked at, and whether all of it was as it should be.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Every check is.
    pub ok: bool,
    /// One sentence each.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Of which run; none of the shop as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// In one word.
    pub name: &'static str,
    /// Nothing is wrong.
    pub ok: bool,
    /// What was seen, for a person.
    pub said: String,
    /// What is wrong; the first twenty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
}

impl Check {
    fn of(run: &str, name: &'static str, said: String, findings: Vec<String>) -> Self {
        Self::about(Some(run.to_owned()), name, said, findings)
    }

    fn about(run: Option<String>, name: &'static str, said: String, mut findings: Vec<String>) -> Self {
        let (ok, more) = (findings.is_empty(), findings.len().saturating_sub(TOLD));
        findings.truncate(TOLD);
        if more > 0 {
            findings.push(format!("and {more} more"));
        }
        Self { run, name, ok, said, findings }
    }
}

/// Judges every run of a journal.
pub async fn judge(staff: &Staff, chapters: &[Chapter]) -> Verdict {
    let mut checks = Vec::new();
    for chapter in chapters {
        let run = chapter.opening.run.as_str();
        gather(&mut checks, Some(run), orders::check(staff, chapter).await);
        gather(&mut checks, Some(run), stock::check(staff, chapter).await);
    }
    gather(&mut checks, None, audit(staff).await);
    Verdict { ok: checks.iter().all(|check| check.ok), checks }
}

/// What cannot be looked at is not as it should be.
fn gather(checks: &mut Vec<Check>, run: Option<&str>, looked: Result<Vec<Check>, Trouble>) {
    let unseen = |trouble: Trouble| {
        let said = "the shop could not be asked".to_owned();
        vec![Check::about(run.map(str::to_owned), "unseen", said, vec![trouble.to_string()])]
    };
    checks.extend(looked.unwrap_or_else(unseen));
}

async fn audit(staff: &Staff) -> Result<Vec<Check>, Trouble> {
    let until = Instant::now() + AUDIT;
    let mut findings = staff.audit().await?;
    while !findings.is_empty() && Instant::now() < until {
        tokio::time::sleep(LOOK).await;
        findings = staff.audit().await?;
    }
    let said = if findings.is_empty() { "the audit is clean" } else { "the audit is not clean" };
    let tell = |finding: super::staff::Finding| {
        let rows = finding.rows.join("; ");
        format!("{}: not true that {}: {rows}", finding.check, finding.sentence)
    };
    Ok(vec![Check::about(None, "audit", said.to_owned(), findings.into_iter().map(tell).collect())])
}
