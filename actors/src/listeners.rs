//! Who listens to a SKU's stock: they are told of every commit by the journal, whether or not the SKU's actor is in. So
//! listeners keep no actor awake, and wake none.

use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::watch;

use crate::domain::{Counters, SkuId};

type Channel = watch::Sender<Option<Counters>>;

/// Every SKU that somebody listens to: one channel each, which holds the newest counters and nothing older.
#[derive(Clone, Default)]
pub(crate) struct Listeners(Arc<DashMap<SkuId, Channel>>);

impl Listeners {
    /// An ear for what is committed from now on.
    pub(crate) fn listen(&self, sku_id: SkuId) -> Listening {
        let counters = self.0.entry(sku_id).or_default().subscribe();
        Listening { counters, _leave: Leave { sku_id, listeners: self.clone() } }
    }

    /// These counters are committed; older news is ignored.
    pub(crate) fn tell(&self, sku_id: SkuId, counters: Counters) {
        let Some(channel) = self.0.get(&sku_id) else { return };
        channel.send_if_modified(|known| {
            let newer = known.is_none_or(|known| known.version < counters.version);
            if newer {
                *known = Some(counters);
            }
            newer
        });
    }
}

/// An ear for one SKU.
pub struct Listening {
    counters: watch::Receiver<Option<Counters>>,
    _leave: Leave,
}

impl Listening {
    /// The newest counters, as soon as they are others than those that were heard last: of many commits in between only the
    /// last is heard.
    pub async fn next(&mut self) -> Counters {
        loop {
            if self.counters.changed().await.is_err() {
                std::future::pending::<()>().await; // the channel is there for as long as its listeners are
            }
            if let Some(counters) = *self.counters.borrow_and_update() {
                return counters;
            }
        }
    }

    /// What is known now is news, too.
    pub(crate) fn hear_again(&mut self) {
        self.counters.mark_changed();
    }
}

/// The last listener to leave takes the channel along; dropped after its ear.
struct Leave {
    sku_id: SkuId,
    listeners: Listeners,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.listeners.0.remove_if(&self.sku_id, |_, channel| channel.receiver_count() == 0);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn counters(version: i64) -> Counters {
        Counters { on_hand: 9, reserved: 0, unpaid: 0, version }
    }

    #[test]
    fn only_the_newest_is_heard_and_the_last_to_leave_closes_the_door() {
        let listeners = Listeners::default();
        let mut first = listeners.listen(SkuId(1));
        let second = listeners.listen(SkuId(1));
        for version in [2, 3, 1] {
            listeners.tell(SkuId(1), counters(version));
        }
        listeners.tell(SkuId(2), counters(1)); // nobody listens
        assert_eq!(first.next().now_or_never(), Some(counters(3)));
        assert_eq!(first.next().now_or_never(), None);
        drop(first);
        assert_eq!(listeners.0.len(), 1);
        drop(second);
        assert_eq!(listeners.0.len(), 0);
    }
}
