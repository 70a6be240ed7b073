//! What a run came to: a table for people, the same for programs.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
};

use serde::Serialize;

use super::{
    tally::{Figures, Kind},
    verdict::Verdict,
};

/// What a run came to.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: &'static str,
    /// The run's word: its keys begin with `hammer-<run>-`.
    pub run: String,
    /// Brings the same buyers again.
    pub seed: u64,
    /// The file of acknowledgements.
    pub journal: String,
    /// How long the load lasted.
    pub seconds: f64,
    /// Buyers who came.
    pub buyers: u64,
    /// Buyers who came in time and whom no connection was free for, in an open loop.
    pub left_outside: u64,
    /// Orders that were acknowledged, sooner or later.
    pub accepted: u64,
    /// Buyers who were told that there is not enough, sooner or later.
    pub sold_out: u64,
    /// Buyers whom a sale's rules do not let in, sooner or later; of goods that the run has made it is `wrong`.
    pub not_for_you: u64,
    /// Buyers who were told that the shop is busy or away.
    pub refused: u64,
    /// Answers that no buyer should get, to a checkout or on the way to it and from it; `errors` says which.
    pub wrong: u64,
    /// Buyers who never got an answer.
    pub unanswered: u64,
    /// Each kind of answer: counts, rates and latencies, in milliseconds.
    pub answers: BTreeMap<Kind, Figures>,
    /// What went wrong, how often.
    pub errors: BTreeMap<String, u64>,
    /// Whether the shop has kept its word.
    pub verdict: Verdict,
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, run, seed, seconds, buyers, .. } = self;
        writeln!(f, "{scenario}: {buyers} buyers in {seconds:.1} s (run {run}, seed {seed})")?;
        table(f, &self.answers)?;
        for (what, count) in &self.errors {
            writeln!(f, "{count:>10}  {what}")?;
        }
        if self.left_outside > 0 {
            writeln!(
                f,
                "{:>10}  came in time, and no connection was free: the shop or --connections",
                self.left_outside
            )?;
        }
        writeln!(f, "journal: {}", self.journal)?;
        write!(f, "{}", self.verdict)
    }
}

fn table(f: &mut fmt::Formatter<'_>, answers: &BTreeMap<Kind, Figures>) -> fmt::Result {
    let [count, rate, p50, p90, p99, p999, max] = ["count", "/s", "p50 ms", "p90", "p99", "p99.9", "max"];
    writeln!(f, "{:24} {count:>10} {rate:>10} {p50:>9} {p90:>9} {p99:>9} {p999:>9} {max:>9}", "")?;
    for (kind, Figures { count, rate, p50, p90, p99, p999, max }) in answers {
        writeln!(f, "{kind:24} {count:>10} {rate:>10.1} {p50:>9.2} {p90:>9.2} {p99:>9.2} {p999:>9.2} {max:>9.2}")?;
    }
    Ok(())
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            let mark = if check.ok { "ok  " } else { "FAIL" };
            let run = check.run.as_ref().map(|run| format!(" [{run}]")).unwrap_or_default();
            writeln!(f, "  {mark}  {}{run}", check.said)?;
            for finding in &check.findings {
                writeln!(f, "          {finding}")?;
            }
        }
        f.write_str(if self.ok { "The shop has kept its word." } else { "The shop has NOT kept its word." })
    }
}
