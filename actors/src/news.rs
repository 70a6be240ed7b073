//! Who is to hear of an entry's events: the buyer by mail, and merchants who have subscribed.
//!
//! Subscriptions are kept in memory, so that a checkout pays nothing while nobody subscribes to placements. This engine
//! alone writes their table, and what it holds here changes after the commit: a subscription begins when its answer is
//! given.

use std::sync::{
    Arc, RwLock,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{Mutex, Notify, OwnedMutexGuard};

use crate::{
    domain::{
        Channel, EventSeq, MAILED, OrderId, OrderStatus, Subscription, SubscriptionId, Who,
        change::NoticeRow,
        notice::{CONFIRMED, PLACED},
    },
    store::entry::Entry,
};

/// Events that are no part of a sale that goes well: a provider's word that does not fit, money that was taken back, money
/// or labels that did not go back.
const ALERTS: [&str; 13] = [
    "capture_refused",
    "dispute_lost",
    "held_back",
    "label_failed",
    "needs_review",
    "payment_disputed",
    "payment_mismatch",
    "payment_partly_reversed",
    "payment_reversed",
    "refund_failed",
    "refund_refused",
    "void_refused",
    "void_rejected",
];

/// What the engine knows of who listens.
pub(crate) struct News {
    /// Whether buyers are mailed at all.
    mails: bool,
    subscriptions: RwLock<Arc<Vec<Arc<Subscription>>>>,
    /// Whether anybody wants to hear of placements: the one event that the hot path has.
    placed_wanted: AtomicBool,
    changing: Arc<Mutex<()>>,
    fresh: Notify,
}

impl News {
    /// Nobody has subscribed yet; buyers are told if they are mailed.
    pub(crate) fn new(mails: bool) -> Self {
        Self {
            mails,
            subscriptions: RwLock::default(),
            placed_wanted: AtomicBool::new(false),
            changing: Arc::default(),
            fresh: Notify::new(),
        }
    }

    /// Takes in what Postgres knows, once this engine alone writes there and before it writes anything.
    pub(crate) fn learn(&self, subscriptions: Vec<Subscription>) {
        self.set(subscriptions.into_iter().map(Arc::new).collect());
    }

    /// Held by whoever changes a subscription, until the change has been taken in or has fallen through: what is read, changed
    /// and committed must not be overtaken.
    pub(crate) async fn one_at_a_time(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.changing).lock_owned().await
    }

    /// Every subscription, in the order in which they were made.
    pub(crate) fn subscriptions(&self) -> Arc<Vec<Arc<Subscription>>> {
        Arc::clone(&self.subscriptions.read().expect("no panic under this lock"))
    }

    pub(crate) fn subscription(&self, id: SubscriptionId) -> Option<Arc<Subscription>> {
        self.subscriptions().iter().find(|subscription| subscription.id == id).cloned()
    }

    /// Takes a subscription in where it was committed, new or changed; whoever is next may change one then.
    pub(crate) fn believe(
        self: &Arc<Self>,
        subscription: Subscription,
        one_at_a_time: OwnedMutexGuard<()>,
    ) -> impl FnOnce(bool) + Send + use<> {
        let news = Arc::clone(self);
        move |committed| {
            if committed {
                news.put(subscription);
            }
            drop(one_at_a_time);
        }
    }

    /// Takes a subscription in as it is.
    pub(crate) fn put(&self, subscription: Subscription) {
        let mut all = self.subscriptions().to_vec();
        match all.iter_mut().find(|known| known.id == subscription.id) {
            Some(known) => *known = Arc::new(subscription),
            None => all.push(Arc::new(subscription)),
        }
        self.set(all);
    }

    /// Forgets a subscription whose end has been committed.
    pub(crate) fn forget(&self, id: SubscriptionId) {
        let all = self.subscriptions();
        self.set(all.iter().filter(|subscription| subscription.id != id).cloned().collect());
    }

    fn set(&self, all: Vec<Arc<Subscription>>) {
        let wanted = all.iter().any(|subscription| subscription.wants(PLACED) || subscription.wants(CONFIRMED));
        *self.subscriptions.write().expect("no panic under this lock") = Arc::new(all);
        self.placed_wanted.store(wanted, Ordering::Relaxed);
    }

    /// The notices of an entry's events, in the order of the events.
    pub(crate) fn of(&self, entry: &Entry) -> Vec<NoticeRow> {
        let events = entry.changes.as_deref().map_or(&[][..], |changes| &changes.events);
        let free = entry.place.as_deref().filter(|place| place.status == OrderStatus::Confirmed);
        let placed = entry.place.as_deref().filter(|_| self.placed_wanted.load(Ordering::Relaxed));
        if events.is_empty() && free.is_none() && placed.is_none() {
            return Vec::new();
        }
        let mut notices = Vec::new();
        let subscriptions = self.subscriptions();
        let mut tell = |order_id: OrderId, event_seq: EventSeq, kind: &'static str| {
            let notice = |channel, subscription_id| NoticeRow { channel, subscription_id, order_id, event_seq, kind };
            if self.mails && MAILED.contains(&kind) {
                notices.push(notice(Channel::Mail, None));
            }
            let wanting = subscriptions.iter().filter(|subscription| subscription.wants(kind));
            notices.extend(wanting.map(|subscription| notice(Channel::Merchants, Some(subscription.id))));
        };
        if let Some(place) = entry.place.as_deref() {
            tell(place.order_id, 1, PLACED);
        }
        if let Some(place) = free {
            tell(place.order_id, 1, CONFIRMED); // there is nothing to pay
        }
        for event in events {
            tell(event.order_id, event.seq, event.kind);
        }
        notices
    }

    /// What a person must look at is said where operators look, once it is committed.
    pub(crate) fn alert(entry: &Entry) {
        let events = entry.changes.as_deref().map_or(&[][..], |changes| &changes.events);
        for event in events.iter().filter(|event| entry.who != Who::Staff && ALERTS.contains(&event.kind)) {
            tracing::warn!(order.id = %event.order_id, kind = event.kind, "an order needs a person's look");
            metrics::counter!("souk_alerts_total", "kind" => event.kind).increment(1);
        }
    }

    /// There are news in Postgres.
    pub(crate) fn wake(&self) {
        self.fresh.notify_one();
    }

    /// Resolves when there are, or may be.
    pub(crate) async fn fresh(&self) {
        self.fresh.notified().await;
    }
}
