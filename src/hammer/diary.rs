//! The journal of acknowledgements: a file to which a line of JSON is added for each, before it is counted. It outlives
//! the run, even a killed one, and is what the verdict holds against the shop: what is in here, the shop has promised.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions, TryLockError},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use serde::{Deserialize, Serialize};

use super::wish::Wanted;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// A run begins; what follows is its.
    Run(Opening),
    /// A SKU as the run found it.
    Sku(Found),
    /// An order was acknowledged.
    Placed(Acknowledged),
    /// The buyer of this number has approved the payment, and the bank has said so.
    Paid(u64),
    /// The run has ended, and every buyer knows how it went.
    End(Ending),
}

/// How a run began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// Its word.
    pub run: String,
    /// The newest order that was there before it.
    pub newest_order: Option<String>,
}

/// What was on the shelf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Which SKU.
    pub sku_id: String,
    /// Units that were there.
    pub on_hand: i64,
    /// Units of those that belonged to others.
    pub reserved: i64,
    /// The newest row of its ledger.
    pub row: i64,
}

/// An order that the shop answers for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// The buyer's.
    pub number: u64,
    /// The order's id.
    pub order_id: String,
    /// What opens it.
    pub token: String,
    /// What was bought.
    pub lines: Vec<Wanted>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Buyers who were told that it is sold out.
    pub sold_out: u64,
    /// Buyers who never got an answer, however often they asked.
    pub unanswered: u64,
    /// Answers that no buyer should get, how often.
    #[serde(default)]
    pub wrong: BTreeMap<String, u64>,
}

/// The file, open for writing; nobody else writes it meanwhile.
pub struct Diary {
    path: PathBuf,
    file: Mutex<File>,
}

impl Diary {
    /// Opens it, or makes it. What is in it stays: an earlier run's acknowledgements are held against the shop as well.
    ///
    /// # Errors
    /// It cannot be written, or another run writes it.
    pub fn open(path: &Path) -> io::Result<Self> {
        // what opens orders is nobody else's to read
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), file: Mutex::new(file) }),
            Err(TryLockError::WouldBlock) => Err(io::Error::other("another run writes it")),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes entries, and returns when the kernel has them: from then on they survive this process.
    ///
    /// # Errors
    /// A full disk, say.
    pub fn write(&self, entries: &[Entry]) -> io::Result<()> {
        let mut lines = Vec::with_capacity(256);
        for entry in entries {
            serde_json::to_writer(&mut lines, entry)?;
            lines.push(b'\n');
        }
        self.file.lock().expect("nothing panics under this lock").write_all(&lines)
    }
}

/// What is written about one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chapter {
    /// How it began.
    pub opening: Opening,
    /// What it found.
    pub found: Vec<Found>,
    /// What it was promised.
    pub placed: Vec<Acknowledged>,
    /// Whose orders were paid.
    pub paid: Vec<u64>,
    /// How it ended; none of one that was killed.
    pub ending: Option<Ending>,
}

impl Chapter {
    fn of(opening: Opening) -> Self {
        Self { opening, found: Vec::new(), placed: Vec::new(), paid: Vec::new(), ending: None }
    }
}

/// Reads every run that stands in a journal. The last line of a killed run may be cut short, and was not counted then.
///
/// # Errors
/// It cannot be read, or is no such journal.
pub fn read(path: &Path) -> io::Result<Vec<Chapter>> {
    let mut chapters: Vec<Chapter> = Vec::new();
    let file =
        File::open(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let mut file = BufReader::new(file);
    let (mut line, mut number) = (String::new(), 0);
    while file.read_line(&mut line)? > 0 {
        number += 1;
        match serde_json::from_str(&line) {
            Ok(entry) => take(&mut chapters, entry).ok_or_else(|| strange(path, number, "no run has begun"))?,
            Err(_) if !line.ends_with('\n') => {}
            Err(error) => return Err(strange(path, number, error)),
        }
        line.clear();
    }
    Ok(chapters)
}

fn take(chapters: &mut Vec<Chapter>, entry: Entry) -> Option<()> {
    match entry {
        Entry::Run(opening) => chapters.push(Chapter::of(opening)),
        Entry::Sku(found) => chapters.last_mut()?.found.push(found),
        Entry::Placed(placed) => chapters.last_mut()?.placed.push(placed),
        Entry::Paid(number) => chapters.last_mut()?.paid.push(number),
        Entry::End(ending) => chapters.last_mut()?.ending = Some(ending),
    }
    Some(())
}

fn strange(path: &Path, line: u64, why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}, line {line}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(number: u64) -> Entry {
        let lines = vec![("sku_a".to_owned(), 2)];
        Entry::Placed(Acknowledged { number, order_id: format!("order_{number}"), token: "t".to_owned(), lines })
    }

    #[test]
    fn runs_stand_one_after_the_other_and_a_cut_line_is_no_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("journal");
        let wrong = BTreeMap::from([("HTTP 404 not_found".to_owned(), 2)]);
        let ending = Ending { sold_out: 3, unanswered: 0, wrong };
        for run in ["r1", "r2"] {
            let diary = Diary::open(&path).expect("a journal");
            assert!(Diary::open(&path).is_err_and(|error| error.to_string().contains("another run")));
            let opening = Opening { run: run.to_owned(), newest_order: None };
            let found = Found { sku_id: "sku_a".to_owned(), on_hand: 10, reserved: 0, row: 7 };
            diary.write(&[Entry::Run(opening), Entry::Sku(found), placed(0)]).expect("written");
            diary.write(&[placed(1)]).expect("written");
            if run == "r1" {
                diary.write(&[Entry::End(ending.clone())]).expect("written");
            }
        }
        let mut file = OpenOptions::new().append(true).open(&path).expect("a file");
        file.write_all(br#"{"placed":{"number":2,"or"#).expect("written");
        let [first, second] = &read(&path).expect("two runs")[..] else { panic!("two runs") };
        assert_eq!((first.placed.len(), second.placed.len()), (2, 2));
        assert_eq!((&first.ending, &second.ending), (&Some(ending), &None));
        assert_eq!((first.found[0].on_hand, second.opening.run.as_str()), (10, "r2"));
        file.write_all(b"\nnonsense\n").expect("written");
        assert!(read(&path).expect_err("nonsense").to_string().contains("line 10"));
    }
}
