//! A CSV file of stock corrections, read: `code,delta,reason` or `code,set,expected,reason`, columns in any order. Every line
//! that cannot be read is named by its number in the file, as an editor shows it.

use std::collections::HashMap;

use csv::ByteRecord;
use souk_actors::domain::{BadLine, Correction, ImportLine, LineProblem, MOST_UNITS, SkuId, clean};
use sqlx::PgPool;

/// The most lines of one file.
pub const MOST_LINES: usize = 250_000;
/// Codes of one question.
const ASKED_AT_ONCE: usize = 5_000;

/// Why a file cannot be read at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The first line does not say what the columns are.
    #[error("the first line names the columns: code,delta,reason or code,set,expected,reason")]
    Header,
    /// Nothing stands below the header.
    #[error("there is no line below the header")]
    Empty,
    /// Too many lines.
    #[error("a file has at most {MOST_LINES} lines; send several")]
    TooLong,
}

/// A line whose code is still to be looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    line: i32,
    code: String,
    correction: Correction,
    reason: String,
}

/// A file's lines, sorted into those that can be read and those that cannot.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sheet {
    /// What can be read.
    pub rows: Vec<Row>,
    /// What cannot.
    pub bad: Vec<BadLine>,
}

/// Where the columns stand.
struct Columns {
    code: usize,
    reason: usize,
    correction: CorrectionColumns,
    count: usize,
}

enum CorrectionColumns {
    Delta(usize),
    Set { set: usize, expected: usize },
}

/// Reads a whole file.
///
/// # Errors
/// [`Unreadable`]; a line that is wrong is no error of the file.
pub fn read(bytes: &[u8]) -> Result<Sheet, Unreadable> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let mut numbers = LineNumbers { bytes, at: 0, line: 1 };
    let mut record = ByteRecord::new();
    let mut next = |record: &mut ByteRecord| -> Option<i32> {
        // reading from memory cannot fail, and a flexible reader takes every record
        let more = reader.read_byte_record(record).unwrap_or(false);
        let at = record.position().map_or(0, csv::Position::byte);
        more.then(|| numbers.line_at(usize::try_from(at).unwrap_or(usize::MAX)))
    };
    next(&mut record).ok_or(Unreadable::Header)?;
    let columns = Columns::of(&record).ok_or(Unreadable::Header)?;
    let mut sheet = Sheet::default();
    while let Some(line) = next(&mut record) {
        if sheet.rows.len() + sheet.bad.len() == MOST_LINES {
            return Err(Unreadable::TooLong);
        }
        match columns.read(line, &record) {
            Ok(row) => sheet.rows.push(row),
            Err((problem, detail)) => {
                let code = record.get(columns.code).map(String::from_utf8_lossy).unwrap_or_default();
                sheet.bad.push(BadLine { line, code: shown(&code), problem, detail });
            }
        }
    }
    if sheet.rows.is_empty() && sheet.bad.is_empty() {
        return Err(Unreadable::Empty);
    }
    sheet.refuse_repeated_sets();
    Ok(sheet)
}

impl Columns {
    fn of(header: &ByteRecord) -> Option<Self> {
        let names: Vec<String> =
            header.iter().map(|name| String::from_utf8_lossy(name).trim().to_ascii_lowercase()).collect();
        let find = |wanted: &str| names.iter().position(|name| name == wanted);
        let correction = match (find("delta"), find("set"), find("expected"), names.len()) {
            (Some(delta), None, None, 3) => CorrectionColumns::Delta(delta),
            (None, Some(set), Some(expected), 4) => CorrectionColumns::Set { set, expected },
            _ => return None,
        };
        Some(Self { code: find("code")?, reason: find("reason")?, correction, count: names.len() })
    }

    fn read(&self, line: i32, record: &ByteRecord) -> Result<Row, (LineProblem, String)> {
        if record.len() != self.count {
            let detail = format!("{} fields instead of {}", record.len(), self.count);
            return Err((LineProblem::Fields, detail));
        }
        let text = |at: usize| {
            str::from_utf8(&record[at]).map_err(|_| (LineProblem::NotUtf8, "save the file as UTF-8".to_owned()))
        };
        let words = |field: &str, at: usize, most| {
            clean(field, text(at)?, most).map_err(|invalid| (LineProblem::BadText, invalid.to_string()))
        };
        let code = words("code", self.code, 64)?;
        let correction = match self.correction {
            CorrectionColumns::Delta(delta) => match number("delta", text(delta)?, -MOST_UNITS..=MOST_UNITS)? {
                0 => return Err((LineProblem::ZeroDelta, "a delta of 0 changes nothing".to_owned())),
                delta => Correction::By(delta),
            },
            CorrectionColumns::Set { set, expected } => Correction::To {
                units: number("set", text(set)?, 0..=MOST_UNITS)?,
                expected: number("expected", text(expected)?, 0..=i64::MAX)?,
            },
        };
        let reason = words("reason", self.reason, 500)?;
        if reason.is_empty() {
            return Err((LineProblem::MissingReason, "say why, for the ledger".to_owned()));
        }
        Ok(Row { line, code, correction, reason })
    }
}

fn number(name: &str, text: &str, range: std::ops::RangeInclusive<i64>) -> Result<i64, (LineProblem, String)> {
    let text = text.trim();
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err((LineProblem::NotANumber, format!("{name} is a whole number")));
    }
    let within = text.parse().ok().filter(|number| range.contains(number));
    within.ok_or_else(|| {
        (LineProblem::OutOfRange, format!("{name} is a whole number from {} to {}", range.start(), range.end()))
    })
}

/// As much of a code as helps to find it, whatever stands there.
fn shown(code: &str) -> String {
    souk_actors::domain::printable(code.trim()).chars().take(64).collect()
}

impl Sheet {
    /// Of two lines that set one SKU nobody knows which is meant: neither is taken.
    fn refuse_repeated_sets(&mut self) {
        let mut first: HashMap<String, i32> = HashMap::new();
        let mut repeated: HashMap<String, i32> = HashMap::new();
        for row in self.rows.iter().filter(|row| row.correction.expected().is_some()) {
            if let Some(line) = first.insert(row.code.clone(), row.line) {
                repeated.entry(row.code.clone()).or_insert(line);
            }
        }
        let (refused, rows): (Vec<Row>, Vec<Row>) =
            std::mem::take(&mut self.rows).into_iter().partition(|row| repeated.contains_key(&row.code));
        self.rows = rows;
        self.bad.extend(refused.into_iter().map(|row| {
            let detail = format!("it is set more than once, first on line {}", repeated[&row.code]);
            BadLine { line: row.line, code: row.code, problem: LineProblem::DuplicateCode, detail }
        }));
    }

    /// Finds the SKU of every line.
    ///
    /// # Errors
    /// Where the database is away.
    pub async fn resolve(self, pool: &PgPool) -> Result<(Vec<ImportLine>, Vec<BadLine>), sqlx::Error> {
        let Self { rows, mut bad } = self;
        let mut codes: Vec<&str> = rows.iter().map(|row| row.code.as_str()).collect();
        codes.sort_unstable();
        codes.dedup();
        let mut known: HashMap<String, i64> = HashMap::with_capacity(codes.len());
        for some in codes.chunks(ASKED_AT_ONCE) {
            let found =
                sqlx::query_as("select code, id from sku where code = any($1)").bind(some).fetch_all(pool).await?;
            known.extend(found);
        }
        let mut lines = Vec::with_capacity(rows.len());
        for Row { line, code, correction, reason } in rows {
            match known.get(&code) {
                Some(sku_id) => lines.push(ImportLine { line, code, sku_id: SkuId(*sku_id), correction, reason }),
                None => bad.push(BadLine {
                    line,
                    code,
                    problem: LineProblem::UnknownCode,
                    detail: "no SKU has this code".to_owned(),
                }),
            }
        }
        Ok((lines, bad))
    }
}

/// Counts lines as an editor does, for every kind of line end; blank ones, which the reader passes over, too.
struct LineNumbers<'a> {
    bytes: &'a [u8],
    at: usize,
    line: i32,
}

impl LineNumbers<'_> {
    /// The line of the record that begins at or, behind blank lines, soon after `start`.
    fn line_at(&mut self, start: usize) -> i32 {
        while let Some(byte) = self.bytes.get(self.at) {
            let is_end = matches!(byte, b'\r' | b'\n');
            if self.at >= start && !is_end {
                break;
            }
            let halfway = *byte == b'\r' && self.bytes.get(self.at + 1) == Some(&b'\n');
            self.line += i32::from(is_end && !halfway);
            self.at += 1;
        }
        self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<(i32, &'static str)> {
        let sheet = read(text.as_bytes()).expect("a header");
        let mut bad: Vec<_> = sheet.bad.iter().map(|bad| (bad.line, bad.problem.as_str())).collect();
        bad.sort_unstable();
        bad
    }

    #[test]
    fn every_line_end_and_every_order_of_columns() {
        for (end, bom) in [("\n", ""), ("\r\n", "\u{feff}"), ("\r", "")] {
            let text = ["reason, Code ,delta", "", "\"found, \"\"two\"\"\"", "x"].join(end);
            let text = format!("{bom}{text},5{end}lost,B, -3 ");
            let sheet = read(text.as_bytes()).expect("readable");
            // the quoted field ends on its own line, so line 3 lacks fields, as line 4 has them all
            assert_eq!(sheet.bad.iter().map(|bad| bad.line).collect::<Vec<_>>(), [3, 4], "{text:?}");
            let want = Row { line: 5, code: "B".into(), correction: Correction::By(-3), reason: "lost".into() };
            assert_eq!(sheet.rows, [want], "{text:?}");
        }
    }

    #[test]
    fn a_field_over_two_lines_counts_as_two() {
        assert_eq!(problems("code,delta,reason\nA,1,\"x\ny\"\nB,zero,x\n"), [(2, "invalid_text"), (4, "not_a_number")]);
    }

    #[test]
    fn every_kind_of_bad_line_is_named() {
        let text = "code,delta,reason\nA,1\nA,1,x,y\nA,one,x\nA,,x\nA,0,x\nA,1000000001,x\nA,99999999999999999999,x\nA,1, \nA,1.5,x";
        let want = [
            (2, "wrong_number_of_fields"),
            (3, "wrong_number_of_fields"),
            (4, "not_a_number"),
            (5, "not_a_number"),
            (6, "zero_delta"),
            (7, "out_of_range"),
            (8, "out_of_range"),
            (9, "missing_reason"),
            (10, "not_a_number"),
        ];
        assert_eq!(problems(text), want);
        let latin = read(b"code,delta,reason\nA,1,caf\xe9\nB,1,x\n").expect("a header");
        assert_eq!((latin.bad[0].line, latin.bad[0].problem, latin.rows.len()), (2, LineProblem::NotUtf8, 1));
        let sets = "code,set,expected,reason\nA,1,0,x\nB,-1,0,x\nA,2,0,x\nC,1,-1,x\nD,0,9,x";
        assert_eq!(
            problems(sets),
            [(2, "duplicate_code"), (3, "out_of_range"), (4, "duplicate_code"), (5, "out_of_range")]
        );
    }

    #[test]
    fn a_file_that_is_none_is_refused() {
        for text in ["", "\n\n", "code,delta\nA,1", "code,delta,set,reason\n", "code,delta,reason,reason\n", "A,1,x\n"]
        {
            assert_eq!(read(text.as_bytes()), Err(Unreadable::Header), "{text:?}");
        }
        assert_eq!(read(b"code,delta,reason\r\n"), Err(Unreadable::Empty));
        let long = format!("code,delta,reason\n{}", "A,1,x\n".repeat(MOST_LINES + 1));
        assert_eq!(read(long.as_bytes()), Err(Unreadable::TooLong));
    }
}
