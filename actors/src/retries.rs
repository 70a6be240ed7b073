//! Whether a checkout may be a retry, known without a question to Postgres: who is told "sold out" has mostly never ordered
//! anything, and must not have to be looked up to hear so.
//!
//! Every key that this engine places an order with is noted before it goes to the journal; of earlier lives the buyers of
//! the newest orders are. So a retry is always known for one, and is looked up. What is noted lies in a Bloom filter of a
//! fixed size: a stranger is taken for somebody known now and then, and is looked up in vain.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use sqlx::PgPool;

use crate::{clock::Clock, store::load};

/// 32 MB, which are taken up as they are used: at ten million orders one stranger in a thousand is looked up.
const BITS: u64 = 1 << 28;
/// Bits that are set for each.
const MARKS: u64 = 3;
/// The orders of earlier lives whose buyers are known. A retry of an older order is refused where the goods are gone, and
/// never orders twice: its key is still taken.
const NEWEST: i64 = 5_000_000;
/// So many are read at a time.
const PAGE: i64 = 20_000;

/// Who has ordered, as far as a retry can come from it.
pub(crate) struct Retries {
    hasher: RandomState,
    bits: Mutex<Vec<u64>>,
    /// Whether earlier lives are known; until then everybody may have ordered in one.
    complete: AtomicBool,
}

impl Retries {
    pub(crate) fn new() -> Self {
        let bits = vec![0; usize::try_from(BITS / 64).unwrap_or_default()];
        Self { hasher: RandomState::new(), bits: Mutex::new(bits), complete: AtomicBool::new(false) }
    }

    /// An order is about to be placed with this key.
    pub(crate) fn note_key(&self, principal: &str, key: &str) {
        self.note(self.hasher.hash_one((principal, key)));
    }

    /// False: no order was placed with this key in this life.
    pub(crate) fn knows_key(&self, principal: &str, key: &str) -> bool {
        self.is_noted(self.hasher.hash_one((principal, key)))
    }

    /// False: no order was placed with this key, neither in this life nor, by this buyer, in an earlier one.
    pub(crate) fn may_be(&self, principal: &str, key: &str, email: &str) -> bool {
        !self.complete.load(Ordering::Acquire)
            || self.knows_key(principal, key)
            || self.is_noted(self.hasher.hash_one(email))
    }

    /// Reads who ordered in earlier lives: after this engine has taken the database over, so that no order of theirs is
    /// still to come. Beside everything else; Postgres may be away meanwhile.
    pub(crate) async fn learn(&self, pool: &PgPool, clock: &Clock) {
        let (mut before, mut left) = (i64::MAX, NEWEST);
        while left > 0 {
            match load::buyers(pool, before, PAGE).await {
                Ok((emails, last)) => {
                    emails.iter().for_each(|email| self.note(self.hasher.hash_one(email.as_str())));
                    let Some(last) = last else { break };
                    (before, left) = (last, left - PAGE);
                }
                Err(error) => {
                    tracing::debug!(%error, "who ordered before is not known yet");
                    clock.beat(std::time::Duration::from_secs(1)).await;
                }
            }
        }
        self.complete.store(true, Ordering::Release);
    }

    fn note(&self, hash: u64) {
        let mut bits = self.bits.lock().expect("no panic under this lock");
        for (word, bit) in places(hash) {
            bits[word] |= bit;
        }
    }

    fn is_noted(&self, hash: u64) -> bool {
        let bits = self.bits.lock().expect("no panic under this lock");
        places(hash).all(|(word, bit)| bits[word] & bit != 0)
    }
}

/// Where a hash leaves its marks: two halves of it make as many independent places as are needed (Kirsch and Mitzenmacher).
fn places(hash: u64) -> impl Iterator<Item = (usize, u64)> {
    let (first, step) = (hash >> 32, hash | 1);
    (0..MARKS).map(move |mark| {
        let place = first.wrapping_add(step.wrapping_mul(mark)) % BITS;
        ((place / 64) as usize, 1 << (place % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_noted_is_known_and_strangers_seldom_are() {
        let retries = Retries::new();
        assert!(retries.may_be("guest", "key", "ann"), "earlier lives are not known yet");
        retries.complete.store(true, Ordering::Release);
        (0..20_000).for_each(|n| retries.note_key("guest", &format!("key-{n}")));
        retries.note(retries.hasher.hash_one("ann"));
        assert!((0..20_000).all(|n| retries.may_be("guest", &format!("key-{n}"), "bob")));
        assert!(retries.may_be("guest", "new", "ann"));
        let strangers = (0..20_000).filter(|n| retries.may_be("other", &format!("key-{n}"), "bob")).count();
        assert!(strangers < 10, "{strangers} of 20000");
    }
}
