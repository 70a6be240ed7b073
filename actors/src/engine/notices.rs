//! What staff ask of news: those that were given up, told again; and who subscribes to what.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::Engine;
use crate::{
    domain::{Invalid, NoticeId, Refusal, Subscription, SubscriptionId, Who, change::Changes},
    error,
    journal::Verdict,
    news::News,
    order::CommandKey,
    outbox,
    store::{
        entry::{Entry, Key},
        notices::{self, DeliveryView, NoticeView},
    },
};

/// Subscriptions of one shop: each costs every event a row.
const MOST_SUBSCRIPTIONS: usize = 50;
/// Dead letters that are told again at once.
const MOST_REPLAYS: i64 = 10_000;

/// A merchant's wish to be called; the shop has checked the address.
#[derive(Clone)]
pub struct Subscribe {
    /// What is called.
    pub url: String,
    /// What calls are signed with; made by the shop.
    pub secret: String,
    /// Of which events.
    pub events: Vec<String>,
    /// What it is for.
    pub description: String,
    /// Makes its repetition harmless.
    pub key: CommandKey,
}

/// What of a subscription changes; what is not given stays.
#[derive(Clone, Default)]
pub struct Resubscribe {
    /// What is called.
    pub url: Option<String>,
    /// Of which events.
    pub events: Option<Vec<String>>,
    /// What it is for.
    pub description: Option<String>,
    /// Whether it is called. One that was disabled begins anew.
    pub enabled: Option<bool>,
}

/// A subscription that is forgotten before its end is committed: known again where nothing comes of that, also where nobody
/// has waited until it was queued.
struct Forgotten {
    news: Arc<News>,
    before: Option<Arc<Subscription>>,
    /// Until it is settled nobody changes another one.
    _one_at_a_time: OwnedMutexGuard<()>,
}

impl Forgotten {
    fn new(news: &Arc<News>, id: SubscriptionId, one_at_a_time: OwnedMutexGuard<()>) -> Result<Self, Refusal> {
        let before = news.subscription(id).ok_or(Refusal::NotFound("subscription"))?;
        news.forget(id);
        Ok(Self { news: Arc::clone(news), before: Some(before), _one_at_a_time: one_at_a_time })
    }

    fn stays_so(mut self) {
        self.before = None;
    }
}

impl Drop for Forgotten {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            self.news.put(Subscription::clone(&before));
        }
    }
}

impl Engine {
    /// News that were given up, newest first.
    ///
    /// # Errors
    /// [`Refusal::Away`].
    pub async fn dead_letters(&self, before: Option<NoticeId>, most: i64) -> Result<Vec<NoticeView>, Refusal> {
        notices::dead_letters(&self.context.reading, before, most).await.map_err(|error| error::refusal(&error))
    }

    /// Has news told again that were given up.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] where that notice was not given up.
    pub async fn replay_dead(&self, id: NoticeId) -> Result<(), Refusal> {
        let found = self.dead_letters(Some(NoticeId(id.0.saturating_add(1))), 1).await?;
        if found.first().is_none_or(|notice| notice.notice_id != id) {
            return Err(Refusal::NotFound("dead letter"));
        }
        self.replay(vec![id]).await
    }

    /// Has everything told again that was given up; how much that was.
    ///
    /// # Errors
    /// [`Refusal::Away`].
    pub async fn replay_all_dead(&self) -> Result<usize, Refusal> {
        let ids: Vec<NoticeId> =
            self.dead_letters(None, MOST_REPLAYS).await?.iter().map(|notice| notice.notice_id).collect();
        let count = ids.len();
        self.replay(ids).await?;
        Ok(count)
    }

    async fn replay(&self, ids: Vec<NoticeId>) -> Result<(), Refusal> {
        if ids.is_empty() {
            return Ok(());
        }
        self.serving()?;
        self.write(Changes { replays: ids, ..Changes::default() }, |_| {}).await?;
        self.context.news.wake();
        Ok(())
    }

    /// Every subscription, in the order in which they were made.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<Subscription> {
        self.context.news.subscriptions().iter().map(|subscription| Subscription::clone(subscription)).collect()
    }

    /// A subscription.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn subscription(&self, id: SubscriptionId) -> Result<Subscription, Refusal> {
        let found = self.context.news.subscription(id).ok_or(Refusal::NotFound("subscription"))?;
        Ok(Subscription::clone(&found))
    }

    /// Subscribes. The same key again finds the same subscription; the flag says so.
    ///
    /// # Errors
    /// [`Refusal::Invalid`], [`Refusal::KeyReused`] and the like.
    pub async fn subscribe(&self, wish: Subscribe) -> Result<(Subscription, bool), Refusal> {
        const ROUTE: &str = "subscribe";
        check(&wish.events)?;
        let one_at_a_time = self.context.news.one_at_a_time().await;
        let CommandKey { principal, key, fingerprint } = wish.key;
        if let Some(id) = self.used(&principal, &key, ROUTE, &fingerprint).await? {
            return Ok((self.subscription(SubscriptionId(id))?, true));
        }
        if self.context.news.subscriptions().len() >= MOST_SUBSCRIPTIONS {
            let problem = format!("a shop has at most {MOST_SUBSCRIPTIONS} subscriptions");
            return Err(Invalid::new("subscriptions", problem).into());
        }
        let id = SubscriptionId(self.context.ids.take(1).await?.start);
        let subscription = Subscription {
            id,
            url: wish.url,
            secret: wish.secret,
            events: wish.events,
            description: wish.description,
            disabled: None,
            failing_since: None,
            created_at: self.context.clock.now(),
        };
        let mut entry = Entry::new(subscription.created_at, Who::Staff);
        entry.key = Some(Key { principal, key, route: ROUTE, fingerprint, ref_id: id.0 });
        let changes = Changes { subscriptions: vec![subscription.clone()], ..Changes::default() };
        entry.changes = Some(Box::new(changes));
        let believe = self.context.news.believe(subscription.clone(), one_at_a_time);
        match self.context.journal.commit_and(entry, |verdict| believe(verdict == Verdict::Committed)).await? {
            Verdict::Committed => Ok((subscription, false)),
            Verdict::Superseded => Err(Refusal::Superseded),
            Verdict::KeyTaken => Err(Refusal::KeyReused), // by another command, just now
            Verdict::Stale | Verdict::Failed => Err(Refusal::Fault),
        }
    }

    /// Changes a subscription. One that is enabled again is called again, and no more has failed.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Invalid`].
    pub async fn resubscribe(&self, id: SubscriptionId, wish: Resubscribe) -> Result<Subscription, Refusal> {
        self.serving()?;
        if let Some(events) = &wish.events {
            check(events)?;
        }
        let how = |subscription: &mut Subscription| {
            let Resubscribe { url, events, description, enabled } = wish;
            subscription.url = url.unwrap_or_else(|| subscription.url.clone());
            subscription.events = events.unwrap_or_else(|| subscription.events.clone());
            subscription.description = description.unwrap_or_else(|| subscription.description.clone());
            match enabled {
                Some(true) => (subscription.disabled, subscription.failing_since) = (None, None),
                Some(false) if subscription.disabled.is_none() => subscription.disabled = Some("by staff".to_owned()),
                Some(false) | None => {}
            }
        };
        outbox::change(&self.context, id, how).await
    }

    /// Ends a subscription, with everything that was on its way to it.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn unsubscribe(&self, id: SubscriptionId) -> Result<(), Refusal> {
        self.serving()?;
        let one_at_a_time = self.context.news.one_at_a_time().await;
        // first, so that no event is written down for it any more
        let forgotten = Forgotten::new(&self.context.news, id, one_at_a_time)?;
        let or_not = move |verdict| {
            if verdict == Verdict::Committed {
                forgotten.stays_so();
            }
        };
        self.write(Changes { unsubscribed: vec![id], ..Changes::default() }, or_not).await
    }

    /// What was and is to be told to a subscription, with every call, newest first.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Away`].
    pub async fn deliveries(
        &self,
        id: SubscriptionId,
        before: Option<NoticeId>,
        most: i64,
    ) -> Result<Vec<DeliveryView>, Refusal> {
        self.subscription(id)?;
        notices::deliveries(&self.context.reading, id, before, most).await.map_err(|error| error::refusal(&error))
    }

    /// Has a merchant told again, under the same id, whatever became of it the first time.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] where that was never for this subscription.
    pub async fn replay_delivery(&self, id: SubscriptionId, notice_id: NoticeId) -> Result<(), Refusal> {
        let found = self.deliveries(id, Some(NoticeId(notice_id.0.saturating_add(1))), 1).await?;
        if found.first().is_none_or(|delivery| delivery.notice.notice_id != notice_id) {
            return Err(Refusal::NotFound("delivery"));
        }
        self.replay(vec![notice_id]).await
    }

    async fn write(&self, changes: Changes, believe: impl FnOnce(Verdict) + Send + 'static) -> Result<(), Refusal> {
        let mut entry = Entry::new(self.context.clock.now(), Who::Staff);
        entry.changes = Some(Box::new(changes));
        match self.context.journal.commit_and(entry, believe).await? {
            Verdict::Committed => Ok(()),
            Verdict::Superseded => Err(Refusal::Superseded),
            Verdict::KeyTaken | Verdict::Stale | Verdict::Failed => Err(Refusal::Fault),
        }
    }
}

fn check(events: &[String]) -> Result<(), Invalid> {
    if !(1..=50).contains(&events.len()) {
        return Err(Invalid::new("events", "is a list of 1 to 50 names"));
    }
    match events.iter().find(|name| !Subscription::is_event_name(name)) {
        Some(_) => Err(Invalid::new("events", "are names such as order.confirmed, or * for all")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[tokio::test]
    async fn a_subscription_whose_end_comes_to_nothing_is_known_again() {
        let news = Arc::new(News::new(false));
        let id = SubscriptionId(7);
        news.put(Subscription {
            id,
            url: "https://merchant.example".into(),
            secret: "secret".into(),
            events: vec!["*".into()],
            description: String::new(),
            disabled: None,
            failing_since: None,
            created_at: DateTime::UNIX_EPOCH,
        });
        let forgotten = Forgotten::new(&news, id, news.one_at_a_time().await).expect("it is there");
        assert!(news.subscription(id).is_none());
        drop(forgotten);
        assert!(news.subscription(id).is_some());
        Forgotten::new(&news, id, news.one_at_a_time().await).expect("it is there").stays_so();
        assert!(news.subscription(id).is_none());
        assert!(Forgotten::new(&news, id, news.one_at_a_time().await).is_err());
    }
}
