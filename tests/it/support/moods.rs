//! How the fakes of outside parties take what they are asked.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Mutex, MutexGuard},
};

use souk_actors::ports::ProviderError;
use tokio::sync::watch;

/// How a question is taken.
#[derive(Debug, Clone)]
pub(crate) enum Mood {
    /// Answered.
    Well,
    /// A 5xx before anything happened.
    Broken,
    /// Done, and the answer is lost on the way.
    LosesReply,
    /// Kept, undone, until [`Moods::go_on`].
    Hangs,
    /// Done, and the answer is kept until [`Moods::go_on`].
    HoldsReply,
    /// Answered with this, and nothing is done.
    Says(ProviderError),
}

/// What becomes of an answer.
pub(crate) enum Reply {
    Heard,
    Lost,
    Held(watch::Receiver<u32>),
}

impl Reply {
    pub(crate) async fn carry<T>(self, answer: T) -> Result<T, ProviderError> {
        match self {
            Self::Heard => Ok(answer),
            Self::Lost => Err(unknown("the answer was lost")),
            Self::Held(mut gate) => {
                gate.changed().await.ok();
                Ok(answer)
            }
        }
    }
}

/// The moods of one party, by what it is asked.
pub(crate) struct Moods<Q> {
    asked: Mutex<Asked<Q>>,
    /// How often those that hang were let go on.
    gate: watch::Sender<u32>,
}

struct Asked<Q> {
    next: HashMap<Q, VecDeque<Mood>>,
    always: HashMap<Q, Mood>,
    calls: HashMap<Q, usize>,
}

impl<Q> Default for Moods<Q> {
    fn default() -> Self {
        let asked = Asked { next: HashMap::new(), always: HashMap::new(), calls: HashMap::new() };
        Self { asked: Mutex::new(asked), gate: watch::channel(0).0 }
    }
}

impl<Q: Copy + Eq + Hash> Moods<Q> {
    fn asked(&self) -> MutexGuard<'_, Asked<Q>> {
        self.asked.lock().expect("no panic under this lock")
    }

    /// The next question of this kind is taken so.
    pub(crate) fn next(&self, question: Q, mood: Mood) {
        self.asked().next.entry(question).or_default().push_back(mood);
    }

    /// Every question of this kind is taken so from now on.
    pub(crate) fn always(&self, question: Q, mood: Mood) {
        self.asked().always.insert(question, mood);
    }

    /// Whoever hangs goes on.
    pub(crate) fn go_on(&self) {
        self.gate.send_modify(|times| *times += 1);
    }

    /// Questions of this kind so far.
    pub(crate) fn calls(&self, question: Q) -> usize {
        self.asked().calls.get(&question).copied().unwrap_or(0)
    }

    /// Takes a question, and says what becomes of its answer.
    pub(crate) async fn take(&self, question: Q) -> Result<Reply, ProviderError> {
        // before anybody can see that it was asked: who sees that may let it go on
        let mut gate = self.gate.subscribe();
        let mood = {
            let mut asked = self.asked();
            *asked.calls.entry(question).or_default() += 1;
            let next = asked.next.get_mut(&question).and_then(VecDeque::pop_front);
            next.or_else(|| asked.always.get(&question).cloned()).unwrap_or(Mood::Well)
        };
        match mood {
            Mood::Well => Ok(Reply::Heard),
            Mood::Broken => Err(unknown("it is broken")),
            Mood::LosesReply => Ok(Reply::Lost),
            Mood::Hangs => {
                gate.changed().await.ok();
                Ok(Reply::Heard)
            }
            Mood::HoldsReply => Ok(Reply::Held(gate)),
            Mood::Says(error) => Err(error),
        }
    }
}

fn unknown(reason: &str) -> ProviderError {
    ProviderError::Unknown { reason: reason.to_owned(), retry_after: None }
}
