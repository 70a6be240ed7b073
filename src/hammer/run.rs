//! What everybody in a run shares, and what is done with the shop's answers.

use std::{
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
/// Too busy, or away; nothing was begun.
pub const REFUSED: Kind = "refused";
/// The two answers that count, to those who had got none and asked again at the end.
pub const ACCEPTED_AGAIN: Kind = "accepted, asked again";
/// See [`ACCEPTED_AGAIN`].
pub const SOLD_OUT_AGAIN: Kind = "sold out, asked again";

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
    /// What came of it.
    pub tally: Tally,
    diary: Diary,
    /// Buyers who do not know whether they have an order.
    unknown: Mutex<Vec<u64>>,
    unanswered: AtomicU64,
    /// Becomes true when no more buyers come.
    pub stop: watch::Sender<bool>,
    failure: Mutex<Option<String>>,
}

impl Run {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(target: Target, patience: Duration, wishes: Wishes, diary: Diary) -> Arc<Self> {
        Arc::new(Self {
            target,
            patience,
            wishes,
            diary,
            tally: Tally::default(),
            unknown: Mutex::default(),
            unanswered: AtomicU64::new(0),
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
        match Said::of(line.ask(request.bytes()).await) {
            Said::Accepted(placed) => {
                let took = turn.due.elapsed();
                self.keep(turn.number, &placed)?;
                self.tally.note_took(ACCEPTED, took);
                return Some(placed);
            }
            Said::SoldOut => self.tally.note(SOLD_OUT, turn.due),
            Said::Refused => self.tally.note(REFUSED, turn.due),
            Said::Wrong(what) => self.tally.wrong(what),
            Said::Unknown(why) => {
                self.tally.wrong(format!("unknown: {why}"));
                self.unknown.lock().expect("nothing panics under this lock").push(turn.number);
            }
        }
        None
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

    /// All who got no answer ask again, with the same key, until they have one.
    pub async fn ask_again(self: &Arc<Self>) {
        let until = Instant::now() + INSISTENCE;
        let mut asking = JoinSet::new();
        for _ in 0..ASKING {
            let run = Arc::clone(self);
            asking.spawn(async move {
                let (mut line, mut request) = (run.line(), Request::default());
                while let Some(number) = run.next_unknown() {
                    run.insist(number, &mut line, &mut request, until).await;
                }
            });
        }
        while asking.join_next().await.is_some() {}
    }

    fn next_unknown(&self) -> Option<u64> {
        self.unknown.lock().expect("nothing panics under this lock").pop()
    }

    async fn insist(&self, number: u64, line: &mut Line, request: &mut Request, until: Instant) {
        self.wishes.checkout(number, request);
        loop {
            let since = Instant::now();
            match Said::of(line.ask(request.bytes()).await) {
                Said::Accepted(placed) => {
                    if self.keep(number, &placed).is_some() {
                        self.tally.note(ACCEPTED_AGAIN, since);
                    }
                    return;
                }
                Said::SoldOut => return self.tally.note(SOLD_OUT_AGAIN, since),
                Said::Wrong(what) => return self.tally.wrong(what),
                Said::Refused | Said::Unknown(_) if Instant::now() < until => tokio::time::sleep(PAUSE).await,
                Said::Refused | Said::Unknown(_) => {
                    self.unanswered.fetch_add(1, Ordering::Relaxed);
                    return self.tally.wrong("never answered");
                }
            }
        }
    }
}
