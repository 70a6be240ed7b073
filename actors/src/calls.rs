//! Calls to one outside party: no more than so many at once, none twice, and none to whom does not answer.

use std::{
    collections::VecDeque,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use dashmap::DashSet;

use crate::ports::ProviderError;

/// Calls to one party at once.
const AT_ONCE: usize = 64;
/// Calls that may wait for their turn; what does not fit stays due in Postgres and comes again.
const QUEUE: usize = 8_192;
/// Calls without a certain answer, in a row, that open the breaker.
const PATIENCE: u32 = 8;

/// Whether a party is being left alone, for the tree.
#[derive(Clone, Default)]
pub(crate) struct LeftAlone(Arc<AtomicBool>);

impl LeftAlone {
    fn set(&self, party: &'static str, open: bool) {
        self.0.store(open, Ordering::Relaxed);
        metrics::gauge!("souk_provider_breaker_open", "provider" => party).set(f64::from(u8::from(open)));
    }

    pub(crate) fn detail(&self) -> serde_json::Value {
        let breaker = if self.0.load(Ordering::Relaxed) { "open" } else { "closed" };
        serde_json::json!({ "breaker": breaker })
    }
}

/// What somebody is finding out or having done, by what keeps a call from being made twice.
pub(crate) struct Claims<K: Eq + Hash>(Arc<DashSet<K>>);

/// Travels with the call to the party and with the answer back to the order, and ends where it is dropped: when the answer
/// was taken in, or wherever one of the two is lost. Were it over as soon as the answer is sent, an order that looks what is
/// due before it comes to that answer would ask for the same again: a card that was declined would be tried a second time.
pub(crate) struct Claim<K: Eq + Hash> {
    claims: Arc<DashSet<K>>,
    key: K,
}

impl<K: Eq + Hash> Default for Claims<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Copy + Eq + Hash> Claims<K> {
    /// The right to have this call made; none while somebody has it.
    pub(crate) fn claim(&self, key: K) -> Option<Claim<K>> {
        self.0.insert(key).then(|| Claim { claims: Arc::clone(&self.0), key })
    }
}

impl<K: Eq + Hash> Drop for Claim<K> {
    fn drop(&mut self) {
        self.claims.remove(&self.key);
    }
}

/// Calls under way and in the queue.
pub(crate) struct Calls<C> {
    party: &'static str,
    queue: VecDeque<C>,
    running: usize,
    breaker: Breaker,
    left_alone: LeftAlone,
}

impl<C> Calls<C> {
    /// None so far; `party` is the name that logs and metrics call it by.
    pub(crate) fn new(party: &'static str, left_alone: LeftAlone) -> Self {
        left_alone.set(party, false);
        Self { party, queue: VecDeque::new(), running: 0, breaker: Breaker::default(), left_alone }
    }

    /// Queues a call, unless the queue is full.
    pub(crate) fn enqueue(&mut self, call: C) {
        if self.queue.len() < QUEUE {
            self.queue.push_back(call);
        }
    }

    /// Begins as many as may be under way. `make` hears for how long the breaker puts its call off; what `ended` hears has to
    /// come back to [`Calls::ended`].
    pub(crate) fn start<F: Future<Output = End> + Send + 'static>(
        &mut self,
        now: DateTime<Utc>,
        make: impl Fn(C, Option<Duration>) -> F,
        ended: impl Fn(End, bool) + Clone + Send + 'static,
    ) {
        while let Some((call, pass)) = self.next(now) {
            let (making, ended, trial) = (make(call, pass.refused()), ended.clone(), pass.is_trial());
            tokio::spawn(async move {
                // a call that panics has ended too: its row is still due
                let end = tokio::spawn(making).await.unwrap_or(End::Uncertain);
                ended(end, trial);
            });
        }
    }

    /// The next call to begin, and what the breaker says to it; none while as many as may be are under way.
    fn next(&mut self, now: DateTime<Utc>) -> Option<(C, Pass)> {
        if self.running >= AT_ONCE {
            return None;
        }
        let call = self.queue.pop_front()?;
        self.running += 1;
        Some((call, self.breaker.lets(now)))
    }

    /// A call has ended; `trial` if it was to find out whether the party is back.
    pub(crate) fn ended(&mut self, end: End, trial: bool, now: DateTime<Utc>) {
        self.running -= 1;
        if let Some(open) = self.breaker.note(end, trial, now) {
            tracing::warn!(provider = self.party, open, "the provider's breaker turned");
            self.left_alone.set(self.party, open);
        }
    }
}

/// A call that the breaker refuses is not made.
pub(crate) fn may_call(refused: Option<Duration>) -> Result<(), ProviderError> {
    match refused {
        None => Ok(()),
        Some(pause) => Err(ProviderError::Unknown {
            reason: "the provider is being left alone".to_owned(),
            retry_after: Some(pause),
        }),
    }
}

/// What a call says of the provider's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The provider said something certain.
    Certain,
    /// It did not.
    Uncertain,
    /// It was not asked.
    NotAsked,
}

impl End {
    /// What an answer, or its lack, says.
    pub(crate) fn of<T>(answer: &Result<T, ProviderError>) -> Self {
        match answer {
            Err(ProviderError::Unknown { .. }) => Self::Uncertain,
            Ok(_)
            | Err(
                ProviderError::Declined(_)
                | ProviderError::NotYet(_)
                | ProviderError::AlreadyDone(_)
                | ProviderError::Dead(_)
                | ProviderError::Rejected(_)
                | ProviderError::TakenBack(_),
            ) => Self::Certain,
        }
    }
}

/// Leaves a provider alone that gives no certain answers: for a second, then two, then four, half a minute at the most.
/// When that is over a single call tries it again.
#[derive(Default)]
struct Breaker {
    failures: u32,
    open_until: Option<DateTime<Utc>>,
    /// A call is out to find out whether the provider is back.
    trying: bool,
}

/// What the breaker says to a call.
#[derive(Debug, PartialEq, Eq)]
enum Pass {
    Free,
    /// The one call that tries.
    Trial,
    /// Put off for so long.
    Refused(Duration),
}

impl Pass {
    /// For how long the call is put off.
    fn refused(&self) -> Option<Duration> {
        match self {
            Self::Refused(pause) => Some(*pause),
            Self::Free | Self::Trial => None,
        }
    }

    fn is_trial(&self) -> bool {
        *self == Self::Trial
    }
}

impl Breaker {
    fn lets(&mut self, now: DateTime<Utc>) -> Pass {
        let Some(until) = self.open_until else { return Pass::Free };
        if now >= until && !self.trying {
            self.trying = true;
            return Pass::Trial;
        }
        Pass::Refused((until - now).to_std().unwrap_or_default().max(Duration::from_millis(500)))
    }

    /// Takes a call's end in. Says so if that opened or closed it. A call that did not ask says nothing of the provider:
    /// were it a failure, those that are refused would keep the breaker open for ever.
    fn note(&mut self, end: End, trial: bool, now: DateTime<Utc>) -> Option<bool> {
        let was_open = self.open_until.is_some();
        self.trying &= !trial;
        match end {
            End::NotAsked => None,
            End::Certain => {
                *self = Self::default();
                was_open.then_some(false)
            }
            // calls that had begun before it opened
            End::Uncertain if was_open && !trial => None,
            End::Uncertain => {
                self.failures += 1;
                if self.failures < PATIENCE {
                    return None;
                }
                let doubled = 1i64 << (self.failures - PATIENCE).min(5);
                self.open_until = Some(now + TimeDelta::seconds(doubled.min(30)));
                (!was_open).then_some(true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_anothers_when_it_was_dropped_and_not_before() {
        let claims = Claims::default();
        let claim = claims.claim(1);
        assert!(claim.is_some());
        assert!(claims.claim(1).is_none());
        assert!(claims.claim(2).is_some(), "of something else");
        drop(claim);
        assert!(claims.claim(1).is_some());
    }

    #[test]
    fn a_breaker_lets_one_call_try_and_is_kept_open_by_no_refusal() {
        let clock = crate::clock::Clock::default();
        let now = clock.now();
        let mut breaker = Breaker::default();
        for _ in 1..PATIENCE {
            assert_eq!(breaker.note(End::Uncertain, false, now), None);
        }
        assert_eq!(breaker.note(End::Uncertain, false, now), Some(true));
        assert!(matches!(breaker.lets(now), Pass::Refused(_)));
        assert_eq!(breaker.note(End::NotAsked, false, now), None);
        let later = now + TimeDelta::seconds(1);
        assert_eq!(breaker.lets(later), Pass::Trial);
        assert!(matches!(breaker.lets(later), Pass::Refused(_)), "one is enough");
        assert_eq!(breaker.note(End::NotAsked, true, later), None, "it had nothing to ask");
        assert_eq!(breaker.lets(later), Pass::Trial, "so another one tries");
        assert_eq!(breaker.note(End::Uncertain, true, later), None);
        assert!(matches!(breaker.lets(later), Pass::Refused(_)));
        let later = later + TimeDelta::seconds(2);
        assert_eq!(breaker.lets(later), Pass::Trial);
        assert_eq!(breaker.note(End::Certain, true, later), Some(false));
        assert_eq!(breaker.lets(later), Pass::Free);
    }
}
