//! What everybody in a run shares, and what is done with the shop's answers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinSet};

use super::{
    diary::{Acknowledged, Diary, Entry},
    line::{Line, Target},
    said::{Placed, Said},
    schedule::Turn,
    tally::{Kind, Tally},
    wish::{Request, Wishes},
};

/// An order was placed and the shop answers for it.
pub const ACCEPTED: Kind = "accepted";
/// There was not enough.
pub const SOLD_OUT: Kind = "sold out";
/// The sale's rules do not let this buyer in.
pub const NOT_FOR_YOU: Kind = "not for you";
/// Too busy, or away; nothing was begun.
pub const REFUSED: Kind = "refused";
/// None that says how it went, for as long as the buyer waited.
pub const NO_ANSWER: Kind = "no answer";
/// Came in time, and no connection was free until the end.
pub const LEFT_OUTSIDE: Kind = "left outside";
/// The answers that count, to those who had got none and asked again at the end; from when the buyer came.
pub const ACCEPTED_AGAIN: Kind = "accepted, asked again";
/// See [`ACCEPTED_AGAIN`].
pub const SOLD_OUT_AGAIN: Kind = "sold out, asked again";
/// See [`ACCEPTED_AGAIN`].
pub const NOT_FOR_YOU_AGAIN: Kind = "not for you, asked again";

/// Who ask again at once.
const ASKING: usize = 16;
/// How long they ask: the shop may have been killed a moment ago.
const INSISTENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(200);

/// A run.
pub struct Run {
    /// Where the shop is.
    pub target: Target,
    /// How long a buyer waits for an answer.
    pub patience: Duration,
    /// What buyers ask for.
    pub wishes: Wishes,
    /// Whether the shop had it before, and may sell it in a sale; what the run has made is in none.
    in_a_sale: bool,
    /// What came of it.
    pub tally: Tally,
    diary: Diary,
    /// Buyers who do not know whether they have an order, and since when they are there.
    unknown: Mutex<Vec<Turn>>,
    unanswered: AtomicU64,
    /// Answers that no buyer should get, how often.
    wrong: Mutex<BTreeMap<String, u64>>,
    /// Becomes true when no more buyers come.
    pub stop: watch::Sender<bool>,
    failure: Mutex<Option<String>>,
}

impl Run {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(target: Target, patience: Duration, wishes: Wishes, in_a_sale: bool, diary: Diary) -> Arc<Self> {
        Arc::new(Self {
            target,
            patience,
            wishes,
            in_a_sale,
            diary,
            tally: Tally::default(),
            unknown: Mutex::default(),
            unanswered: AtomicU64::new(0),
            wrong: Mutex::default(),
            stop: watch::Sender::new(false),
            failure: Mutex::default(),
        })
    }

    /// A connection to the shop.
    #[must_use]
    pub fn line(&self) -> Line {
        Line::new(self.target.clone(), self.patience)
    }

    /// One buyer's checkout; the order, if there is one.
    pub async fn checkout(&self, line: &mut Line, request: &mut Request, turn: Turn) -> Option<Placed> {
        self.wishes.checkout(turn.number, request);
        match Said::of(line.ask(request.bytes()).await, self.in_a_sale) {
            Said::Accepted(placed) => {
                let took = turn.due.elapsed();
                self.keep(turn.number, &placed)?;
                self.tally.note_took(ACCEPTED, took);
                return Some(placed);
            }
            Said::SoldOut => self.tally.note(SOLD_OUT, turn.due),
            Said::NotForYou => self.tally.note(NOT_FOR_YOU, turn.due),
            Said::Refused => self.tally.note(REFUSED, turn.due),
            Said::Wrong(what) => self.wronged(what),
            Said::Unknown(why) => {
                self.tally.note(NO_ANSWER, turn.due);
                self.tally.wrong(format!("unknown: {why}"));
                self.unknown.lock().expect("nothing panics under this lock").push(turn);
            }
        }
        None
    }

    /// Somebody got an answer that no buyer should get: the verdict will say so.
    pub fn wronged(&self, what: String) {
        *self.wrong.lock().expect("nothing panics under this lock").entry(what.clone()).or_default() += 1;
        self.tally.wrong(what);
    }

    /// Writes down what the shop answers for: only then it counts.
    fn keep(&self, number: u64, placed: &Placed) -> Option<()> {
        let lines = self.wishes.lines(number);
        let Placed { order_id, order_token } = placed.clone();
        self.note(Entry::Placed(Acknowledged { number, order_id, token: order_token, lines }))
    }

    /// Writes an entry, or ends the run: without a journal nothing that it says is worth anything.
    pub fn note(&self, entry: Entry) -> Option<()> {
        if let Err(error) = self.diary.write(&[entry]) {
            let failure = format!("the journal {}: {error}", self.diary.path().display());
            self.failure.lock().expect("nothing panics under this lock").get_or_insert(failure);
            self.stop.send_replace(true);
            return None;
        }
        Some(())
    }

    /// Why the run cannot be believed, if so.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().expect("nothing panics under this lock").clone()
    }

    /// Buyers who never got an answer.
    pub fn unanswered(&self) -> u64 {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// Answers that no buyer should get, how often.
    pub fn wrong(&self) -> BTreeMap<String, u64> {
        self.wrong.lock().expect("nothing panics under this lock").clone()
    }

    /// All who got no answer ask again, with the same key, until they have one.
    pub async fn ask_again(self: &Arc<Self>) {
        let until = Instant::now() + INSISTENCE;
        let mut asking = JoinSet::new();
        for _ in 0..ASKING {
            let run = Arc::clone(self);
            asking.spawn(async move {
                let (mut line, mut request) = (run.line(), Request::default());
                while let Some(turn) = run.next_unknown() {
                    run.insist(turn, &mut line, &mut request, until).await;
                }
            });
        }
        while asking.join_next().await.is_some() {}
    }

    fn next_unknown(&self) -> Option<Turn> {
        self.unknown.lock().expect("nothing panics under this lock").pop()
    }

    async fn insist(&self, turn: Turn, line: &mut Line, request: &mut Request, until: Instant) {
        self.wishes.checkout(turn.number, request);
        loop {
            match Said::of(line.ask(request.bytes()).await, self.in_a_sale) {
                Said::Accepted(placed) => {
                    if self.keep(turn.number, &placed).is_some() {
                        self.tally.note(ACCEPTED_AGAIN, turn.due);
                    }
                    return;
                }
                Said::SoldOut => return self.tally.note(SOLD_OUT_AGAIN, turn.due),
                Said::NotForYou => return self.tally.note(NOT_FOR_YOU_AGAIN, turn.due),
                Said::Wrong(what) => return self.wronged(what),
                Said::Refused | Said::Unknown(_) if Instant::now() < until => tokio::time::sleep(PAUSE).await,
                Said::Refused | Said::Unknown(_) => {
                    self.unanswered.fetch_add(1, Ordering::Relaxed);
                    return self.tally.wrong("never answered");
                }
            }
        }
    }
}
