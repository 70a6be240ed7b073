//! A file of stock corrections: what its lines ask, what is wrong with them, and how they would go, one after the other.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Counters, ImportId, SkuId, words};

/// No SKU has more, and no correction is larger: far from every overflow.
pub const MOST_UNITS: i64 = 1_000_000_000;

/// How stock on hand is corrected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Correction {
    /// By so many units, up or down.
    By(i64),
    /// To so many units, if `expected` are there at the moment of commit.
    To {
        /// How many there are to be.
        units: i64,
        /// How many there must be before.
        expected: i64,
    },
}

impl Correction {
    /// By how many units stock on hand moves.
    #[must_use]
    pub fn delta(self) -> i64 {
        match self {
            Self::By(delta) => delta,
            Self::To { units, expected } => units - expected,
        }
    }

    /// How many units must be there, where that matters.
    #[must_use]
    pub fn expected(self) -> Option<i64> {
        match self {
            Self::By(_) => None,
            Self::To { expected, .. } => Some(expected),
        }
    }
}

words! {
    /// What becomes of a file with bad lines.
    ImportMode {
        /// Nothing of it is applied.
        All = "all",
        /// The good lines are applied.
        Partial = "partial",
    }
}

words! {
    /// Where an import stands.
    ImportState {
        /// Its lines are being applied.
        Applying = "applying",
        /// Every line is applied or failed.
        Done = "done",
        /// It had bad lines, and nothing was applied.
        Rejected = "rejected",
    }
}

words! {
    /// What is wrong with a line of an import.
    LineProblem {
        /// It has more or fewer fields than the header.
        Fields = "wrong_number_of_fields",
        /// It is not UTF-8.
        NotUtf8 = "not_utf8",
        /// A text is too long or holds a control character.
        BadText = "invalid_text",
        /// No SKU has this code.
        UnknownCode = "unknown_code",
        /// The code stands on several lines: which of them is meant?
        DuplicateCode = "duplicate_code",
        /// A number is none.
        NotANumber = "not_a_number",
        /// A delta of nothing.
        ZeroDelta = "zero_delta",
        /// A number is too small or too large.
        OutOfRange = "out_of_range",
        /// Nobody says why.
        MissingReason = "missing_reason",
        /// Less than nothing would be left.
        Negative = "negative_result",
        /// Less would be left than is reserved.
        BelowReserved = "below_reserved",
        /// Another number of units is there than the line expects.
        Changed = "stock_changed",
        /// The SKU's actor does not answer.
        Unavailable = "unavailable",
        /// Postgres refuses it; the log says why.
        Refused = "refused",
    }
}

/// A line that asks for something.
#[derive(Debug, Clone)]
pub struct ImportLine {
    /// Its number in the file, the first line is 1.
    pub line: i32,
    /// The shop's code of the SKU.
    pub code: String,
    /// The SKU.
    pub sku_id: SkuId,
    /// What is asked.
    pub correction: Correction,
    /// Why, for the ledger.
    pub reason: String,
}

/// A line that was not, or will not be, applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BadLine {
    /// Its number in the file, the first line is 1.
    pub line: i32,
    /// The code that it names, as far as it could be read.
    pub code: String,
    /// What is wrong, in one word.
    pub problem: LineProblem,
    /// What is wrong, for a person.
    pub detail: String,
}

/// An import as people see it.
#[derive(Debug, Clone)]
pub struct ImportView {
    /// Its id, and the cursor after it.
    pub import_id: ImportId,
    /// What becomes of bad lines.
    pub mode: ImportMode,
    /// Where it stands.
    pub state: ImportState,
    /// Lines in all.
    pub total: i32,
    /// Lines that are applied.
    pub applied: i32,
    /// Lines that failed.
    pub failed: i32,
    /// When it came.
    pub created_at: DateTime<Utc>,
    /// When its last line was settled.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Finds the lines that could not be applied now, one after the other, by the counters of every SKU they name.
#[must_use]
pub fn rehearse(lines: &[ImportLine], mut stock: HashMap<SkuId, Counters>) -> Vec<BadLine> {
    let mut bad = Vec::new();
    for line in lines {
        let said = match stock.get_mut(&line.sku_id) {
            None => Err((LineProblem::UnknownCode, "its stock is not open".to_owned())),
            Some(counters) => fits(line.correction, *counters).map(|on_hand| counters.on_hand = on_hand),
        };
        if let Err((problem, detail)) = said {
            bad.push(BadLine { line: line.line, code: line.code.clone(), problem, detail });
        }
    }
    bad
}

/// What would be on hand after a correction.
fn fits(correction: Correction, counters: Counters) -> Result<i64, (LineProblem, String)> {
    let Counters { on_hand, reserved, .. } = counters;
    if let Some(expected) = correction.expected()
        && expected != on_hand
    {
        return Err((LineProblem::Changed, format!("{on_hand} are on hand, not {expected}")));
    }
    let after = on_hand + correction.delta();
    if after < 0 {
        return Err((LineProblem::Negative, format!("only {on_hand} are on hand")));
    }
    if correction.delta() < 0 && after < reserved {
        return Err((LineProblem::BelowReserved, format!("only {} are not reserved", on_hand - reserved)));
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: i32, sku: i64, correction: Correction) -> ImportLine {
        ImportLine { line: number, code: format!("S{sku}"), sku_id: SkuId(sku), correction, reason: "counted".into() }
    }

    #[test]
    fn lines_are_tried_one_after_the_other() {
        let stock = HashMap::from([(SkuId(1), Counters { on_hand: 5, reserved: 2, unpaid: 0, version: 1 })]);
        let lines = [
            line(2, 1, Correction::By(-4)), // three are free
            line(3, 1, Correction::By(4)),
            line(4, 1, Correction::By(-7)),
            line(5, 1, Correction::By(-3)),
            line(6, 1, Correction::To { units: 9, expected: 5 }),
            line(7, 1, Correction::To { units: 9, expected: 2 }),
            line(8, 2, Correction::By(1)),
        ];
        let bad: Vec<_> = rehearse(&lines, stock).into_iter().map(|bad| (bad.line, bad.problem)).collect();
        use LineProblem::{BelowReserved, Changed, Negative, UnknownCode};
        assert_eq!(bad, [(2, BelowReserved), (5, Negative), (6, Changed), (8, UnknownCode)]);
    }
}
