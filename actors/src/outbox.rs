//! The outbox actors: one a way out. Each tells what is due of its channel, no more than so many at once, and writes down
//! what became of it.
//!
//! News are rows that were committed with their events, and a row is told at least once: it is marked after it was sent,
//! so an engine that dies in between has it sent again, under the same id. News of one order reach one receiver in order;
//! what was given up stands in nobody's way.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use dashmap::{DashMap, DashSet};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    context::Context,
    directory::{Cell, Directory, Envelope, Kind},
    domain::{
        Channel, NoticeId, NoticeState, Refusal, Subscription, SubscriptionId, Who,
        change::{AttemptRow, Changes, NoticeMark},
    },
    journal::Verdict,
    ports::{Delivery, Notice, Notifier, SendError},
    store::{
        entry::Entry,
        load::notices::{self, Due},
    },
};

/// How often due news are looked for, in real time; at once when there are fresh ones, or the clock is moved.
const BEAT: Duration = Duration::from_millis(250);
/// News told to one receiver at once: the mail server, or one subscription, which a slow neighbour must not hold up.
const AT_ONCE: usize = 8;
/// News told by one way out at once; a receiver that is told nothing yet gets one place beyond them, so that those who hang
/// hold up nobody else.
const IN_ALL: usize = 64;
/// The longest that a try may take, whatever the gateway's own limits come to.
const LONGEST: Duration = Duration::from_secs(180);
/// How long an engine that stops waits for news that are on their way.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// A subscription that no call has reached for so long is called no more.
const FORBEARANCE: TimeDelta = TimeDelta::days(5);
/// What was told is forgotten after so long, looked for once an hour.
const MEMORY: TimeDelta = TimeDelta::days(30);
const PRUNING: TimeDelta = TimeDelta::hours(1);
/// When it goes on with that, where more is to be forgotten than is forgotten at once.
const AGAIN: TimeDelta = TimeDelta::seconds(10);

/// How long news wait after their first try, their second …; after the last one they are given up.
fn patience(channel: Channel, tries: i32) -> Option<TimeDelta> {
    let seconds: &[i64] = match channel {
        // a mail server that is down for a weekend loses nothing: six hours apart, for three days
        Channel::Mail => &[
            30, 120, 600, 3_600, 21_600, 21_600, 21_600, 21_600, 21_600, 21_600, 21_600, 21_600, 21_600, 21_600,
            21_600, 21_600,
        ],
        // 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h: as Standard Webhooks recommends
        Channel::Merchants => &[5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400],
    };
    let wait = usize::try_from(tries - 1).ok().and_then(|at| seconds.get(at));
    wait.map(|seconds| TimeDelta::seconds(*seconds))
}

/// How outbox actors are started.
pub(crate) struct Telling {
    pub context: Arc<Context>,
}

/// News that must not be sent now. The cell keeps them: an actor that crashes leaves them on their way, and its next life
/// must not send them a second time.
#[derive(Default)]
pub(crate) struct Carried {
    /// On their way, and to whom.
    on_way: DashMap<NoticeId, Option<SubscriptionId>>,
    /// Told, and nobody can write it down: whatever is wrong, they must not be told over and over, nor take a place.
    set_aside: DashSet<NoticeId>,
}

impl Carried {
    fn ids(&self) -> Vec<i64> {
        let on_way = self.on_way.iter().map(|one| one.key().0);
        on_way.chain(self.set_aside.iter().map(|one| one.0)).collect()
    }

    /// How many are on their way to each receiver; 0 is the receiver of mail.
    fn by_receiver(&self) -> HashMap<i64, usize> {
        let mut busy = HashMap::new();
        for one in &self.on_way {
            *busy.entry(one.value().map_or(0, |id| id.0)).or_default() += 1;
        }
        busy
    }
}

pub(crate) enum Msg {
    /// Look what is due.
    Look,
    /// One has ended.
    Ended,
}

#[async_trait]
impl Kind for Telling {
    const NAME: &'static str = "outbox";
    const ONE: &'static str = "outbox";
    const MAILBOX: usize = 2;
    const ESCALATES: bool = true;
    type Key = Channel;
    type Msg = Msg;
    type Shared = Arc<Carried>;

    fn shared(&self, _: Channel) -> Arc<Carried> {
        Arc::default()
    }

    async fn start(&self, cell: &Arc<Cell<Self>>, supervisor: ActorCell) -> Result<ActorRef<Envelope<Self>>, Refusal> {
        let teller = Teller {
            cell: Arc::downgrade(cell),
            notifier: self.context.notifiers.get(&cell.key).cloned().ok_or(Refusal::NotFound("way out"))?,
            context: Arc::clone(&self.context),
            carried: Arc::clone(&cell.shared),
        };
        let spawned = Actor::spawn_linked(None, teller, None, supervisor).await;
        spawned.map(|(actor, _)| actor).map_err(|_| Refusal::Away("the engine is stopping"))
    }

    fn may_rest(&self, _: &Arc<Carried>) -> bool {
        false
    }

    fn detail(&self, carried: &Arc<Carried>) -> Option<serde_json::Value> {
        Some(json!({ "carries": carried.on_way.len() }))
    }
}

/// Keeps the outbox actors going until the engine stops; a crashed one is started by the next beat.
pub(crate) async fn keep_telling(context: Arc<Context>, directory: Arc<Directory<Telling>>) {
    loop {
        for channel in context.notifiers.keys() {
            directory.send(*channel, Msg::Look).await.ok(); // full: it is still looking
        }
        tokio::select! {
            () = context.clock.beat(BEAT) => {}
            () = context.news.fresh() => {}
        }
    }
}

struct Teller {
    cell: std::sync::Weak<Cell<Telling>>,
    notifier: Arc<dyn Notifier>,
    context: Arc<Context>,
    carried: Arc<Carried>,
}

impl Actor for Teller {
    type Msg = Envelope<Telling>;
    /// When the outbox was last pruned.
    type State = Option<DateTime<Utc>>;
    type Arguments = Option<DateTime<Utc>>;

    async fn pre_start(&self, _: ActorRef<Self::Msg>, never: Self::State) -> Result<Self::State, ActorProcessingErr> {
        Ok(never)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        pruned: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let (msg, _ticket) = envelope.open();
        // while most are still on their way, one that has ended is no reason to look: the beat is soon enough
        let looks = match msg {
            Msg::Look => true,
            Msg::Ended => self.carried.on_way.len() < AT_ONCE / 2,
        };
        if looks && let Err(error) = self.look(&myself).await {
            tracing::debug!(%error, "the outbox cannot look");
        }
        self.prune(pruned).await;
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Self::Msg>, _: &mut Self::State) -> Result<(), ActorProcessingErr> {
        let give_up = Instant::now() + LAST_WORDS;
        while !self.carried.on_way.is_empty() && Instant::now() < give_up {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

impl Teller {
    async fn look(&self, myself: &ActorRef<Envelope<Telling>>) -> Result<(), sqlx::Error> {
        let mut busy = self.carried.by_receiver();
        let rooms = self.rooms(&busy);
        if rooms.is_empty() {
            return Ok(());
        }
        let (carried, now) = (self.carried.ids(), self.context.clock.now());
        for due in notices::due(&self.context.pool, self.notifier.channel(), &rooms, &carried, now).await? {
            let receiver = busy.entry(due.subscription_id.map_or(0, |id| id.0)).or_default();
            if *receiver == 0 || self.carried.on_way.len() < IN_ALL {
                *receiver += 1;
                self.begin(due, myself);
            }
        }
        Ok(())
    }

    /// How many more each receiver may be told now; those that may be told none are left out.
    fn rooms(&self, busy: &HashMap<i64, usize>) -> Vec<(i64, i64)> {
        let receivers: Vec<i64> = match self.notifier.channel() {
            Channel::Mail => vec![0],
            Channel::Merchants => self.context.news.subscriptions().iter().map(|one| one.id.0).collect(),
        };
        let room = |receiver: i64| AT_ONCE.saturating_sub(busy.get(&receiver).copied().unwrap_or(0));
        let rooms = receivers.into_iter().map(|receiver| (receiver, room(receiver) as i64));
        rooms.filter(|(_, room)| *room > 0).collect()
    }

    fn begin(&self, due: Due, myself: &ActorRef<Envelope<Telling>>) {
        let carrying = Carrying { carried: Arc::clone(&self.carried), id: due.id };
        self.carried.on_way.insert(due.id, due.subscription_id);
        let errand = Errand { context: Arc::clone(&self.context), notifier: Arc::clone(&self.notifier) };
        let (cell, actor) = (self.cell.clone(), myself.clone());
        tokio::spawn(async move {
            errand.tell(due, carrying).await;
            if let Some(cell) = cell.upgrade() {
                cell.nudge(&actor, Msg::Ended);
            }
        });
    }

    async fn prune(&self, pruned: &mut Option<DateTime<Utc>>) {
        let now = self.context.clock.now();
        if pruned.is_some_and(|then| now - then < PRUNING) {
            return;
        }
        *pruned = Some(now);
        match notices::prune(&self.context.pool, now - MEMORY).await {
            Ok(false) => {}
            Ok(true) => *pruned = Some(now - PRUNING + AGAIN),
            Err(error) => tracing::debug!(%error, "the outbox is not pruned now"),
        }
    }
}

/// Keeps a notice among those that are on their way until it is dropped.
struct Carrying {
    carried: Arc<Carried>,
    id: NoticeId,
}

impl Carrying {
    fn set_aside(&self) {
        self.carried.set_aside.insert(self.id);
    }
}

impl Drop for Carrying {
    fn drop(&mut self) {
        self.carried.on_way.remove(&self.id);
    }
}

/// One try, from its row to its mark.
struct Errand {
    context: Arc<Context>,
    notifier: Arc<dyn Notifier>,
}

impl Errand {
    async fn tell(&self, due: Due, carrying: Carrying) {
        let began = Instant::now();
        let tries = due.attempts + 1;
        let (notice_id, subscription_id, kind) = (due.id, due.subscription_id, due.kind.clone());
        let delivery = self.send(due).await;
        let millis = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
        let channel = self.notifier.channel();
        let outcome = outcome(&delivery.end);
        metrics::counter!("souk_notices_total", "channel" => channel.as_str(), "outcome" => outcome).increment(1);
        if let Err(error) = &delivery.end {
            tracing::info!(notice.id = %notice_id, %channel, kind, tries, %error, "news were not told");
        }
        self.context.faults.hit("outbox.after_send", channel.as_str());
        let now = self.context.clock.now();
        let attempt = subscription_id.map(|subscription_id| AttemptRow {
            subscription_id,
            millis,
            status: delivery.status,
            said: delivery.said,
        });
        let mark = mark(notice_id, channel, tries, &delivery.end, now, attempt);
        if !self.write_down(mark, now).await {
            return carrying.set_aside();
        }
        if let Some(subscription_id) = subscription_id {
            self.judge(subscription_id, &delivery.end, now).await;
        }
    }

    async fn send(&self, due: Due) -> Delivery {
        let to = match due.subscription_id.map(|id| self.context.news.subscription(id)) {
            None => None,
            Some(Some(subscription)) if subscription.disabled.is_none() => Some(subscription),
            Some(_) => return Err(SendError::Refused("the subscription is disabled".to_owned())).into(),
        };
        let Due { id, order_id, event_seq, kind, data, at, .. } = due;
        let notice = Notice { id, order_id, event_seq, kind, data, at, to };
        self.context.faults.hit("outbox.before_send", self.notifier.channel().as_str());
        let notifier = Arc::clone(&self.notifier);
        // a task of its own: a gateway that panics on one piece of news must not have it tried as fast as it panics
        let sent = tokio::spawn(async move { tokio::time::timeout(LONGEST, notifier.send(&notice)).await }).await;
        match sent {
            Ok(Ok(delivery)) => delivery,
            Ok(Err(_)) => Err(SendError::Unknown("it took too long".to_owned())).into(),
            Err(_) => Err(SendError::Unknown("the gateway panicked".to_owned())).into(),
        }
    }

    /// Whether it is in Postgres, or is for a newer engine to find out.
    async fn write_down(&self, mark: NoticeMark, now: DateTime<Utc>) -> bool {
        let mut entry = Entry::new(now, Who::Engine);
        entry.changes = Some(Box::new(Changes { marks: vec![mark], ..Changes::default() }));
        match self.context.journal.commit(entry).await {
            Ok(Verdict::Committed | Verdict::Superseded) | Err(_) => true,
            Ok(Verdict::KeyTaken | Verdict::Stale | Verdict::Failed) => false,
        }
    }

    /// What a try says of the subscription: one that is gone, or that nobody has reached for days, is called no more.
    async fn judge(&self, id: SubscriptionId, end: &Result<(), SendError>, now: DateTime<Utc>) {
        let Some(known) = self.context.news.subscription(id) else { return };
        if known.disabled.is_some() || end.is_ok() && known.failing_since.is_none() {
            return;
        }
        let judged = change(&self.context, id, |subscription| match end {
            Ok(()) => subscription.failing_since = None,
            Err(SendError::Gone(_)) => subscription.disabled = Some("the receiver wants no more (410)".to_owned()),
            Err(SendError::NotNow(_) | SendError::Unknown(_) | SendError::Refused(_)) => {
                let since = *subscription.failing_since.get_or_insert(now);
                if now - since >= FORBEARANCE {
                    subscription.disabled = Some("no call has gone well for five days".to_owned());
                }
            }
        });
        match judged.await {
            Ok(subscription) if subscription.disabled.is_some() => {
                tracing::warn!(subscription.id = %id, "a subscription is disabled");
            }
            Ok(_) => {}
            Err(refusal) => tracing::debug!(subscription.id = %id, %refusal, "a subscription could not be judged"),
        }
    }
}

fn outcome(end: &Result<(), SendError>) -> &'static str {
    match end {
        Ok(()) => "sent",
        Err(SendError::NotNow(_)) => "not_now",
        Err(SendError::Unknown(_)) => "unknown",
        Err(SendError::Refused(_)) => "refused",
        Err(SendError::Gone(_)) => "gone",
    }
}

fn mark(
    id: NoticeId,
    channel: Channel,
    attempts: i32,
    end: &Result<(), SendError>,
    now: DateTime<Utc>,
    attempt: Option<AttemptRow>,
) -> NoticeMark {
    let error = end.as_ref().err().map(|error| crate::domain::printable(&error.to_string()));
    let (state, next_at) = match end {
        Ok(()) => (NoticeState::Sent, now),
        Err(SendError::Refused(_) | SendError::Gone(_)) => (NoticeState::Dead, now),
        Err(SendError::NotNow(_) | SendError::Unknown(_)) => match patience(channel, attempts) {
            Some(wait) => (NoticeState::Open, now + wait),
            None => (NoticeState::Dead, now),
        },
    };
    NoticeMark { id, state, attempts, next_at, error, attempt }
}

/// Changes a subscription: committed first, believed then. One change at a time.
///
/// # Errors
/// [`Refusal::NotFound`], and whatever the journal says.
pub(crate) async fn change(
    context: &Context,
    id: SubscriptionId,
    how: impl FnOnce(&mut Subscription) + Send,
) -> Result<Subscription, Refusal> {
    let one_at_a_time = context.news.one_at_a_time().await;
    let known = context.news.subscription(id).ok_or(Refusal::NotFound("subscription"))?;
    let mut changed = Subscription::clone(&known);
    how(&mut changed);
    if changed == *known {
        return Ok(changed);
    }
    let mut entry = Entry::new(context.clock.now(), Who::Engine);
    entry.changes = Some(Box::new(Changes { subscriptions: vec![changed.clone()], ..Changes::default() }));
    let believe = context.news.believe(changed.clone(), one_at_a_time);
    match context.journal.commit_and(entry, |verdict| believe(verdict == Verdict::Committed)).await? {
        Verdict::Committed => Ok(changed),
        Verdict::Superseded => Err(Refusal::Superseded),
        Verdict::KeyTaken | Verdict::Stale | Verdict::Failed => Err(Refusal::Fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_and_ends_after_three_days() {
        for (channel, first, hours) in [(Channel::Mail, 30, 73), (Channel::Merchants, 5, 75)] {
            let waits: Vec<TimeDelta> = (1..).map_while(|tries| patience(channel, tries)).collect();
            assert_eq!(waits[0], TimeDelta::seconds(first));
            assert!(waits.is_sorted(), "{channel}: {waits:?}");
            let total = waits.iter().copied().reduce(|sum, wait| sum + wait).expect("some");
            assert_eq!(total.num_hours(), hours, "{channel}");
            assert_eq!(patience(channel, 0), None);
        }
    }

    #[test]
    fn a_refusal_is_final_and_a_delay_is_not() {
        let now = DateTime::UNIX_EPOCH;
        let end = |end, tries| mark(NoticeId(1), Channel::Mail, tries, &end, now, None).state;
        assert_eq!(end(Ok(()), 1), NoticeState::Sent);
        assert_eq!(end(Err(SendError::NotNow("450".into())), 1), NoticeState::Open);
        assert_eq!(end(Err(SendError::Unknown("cut".into())), 1), NoticeState::Open);
        assert_eq!(end(Err(SendError::Refused("550".into())), 1), NoticeState::Dead);
        assert_eq!(end(Err(SendError::NotNow("450".into())), 17), NoticeState::Dead);
    }
}
