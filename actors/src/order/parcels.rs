//! The goods side of the order actor: what shipping actors are asked, and what comes of their answers.

use super::{Beside, Keeper, State};
use crate::{
    domain::{
        About, Command, Draft, Invalid, Label, Order, Refusal, Service, Shipment, ShipmentId, Task, TaskId, TaskKind,
        Tracking, Void, Who, change::InboxMark,
    },
    ports::{BuyLabel, ProviderError},
    shipping::{Job, JobKey, What},
};

/// What is heard of an order's parcels.
pub(crate) enum News {
    /// A call was answered.
    Answered { task_id: TaskId, answer: Answer },
    /// A carrier was asked where a parcel is, and said this.
    Tracked { shipment_id: ShipmentId, facts: Vec<Tracking>, inbox_id: Option<i64> },
    /// A carrier that was due to be asked did not answer.
    NotTracked,
    /// Something became of a label that a call waits for.
    LabelMoved { shipment_id: ShipmentId, inbox_id: i64 },
}

/// What came of a call to a carrier.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The label, as it was bought or as it is now.
    Label(Label),
    /// A label that somebody had bought before.
    Found(Label),
    /// There is none.
    NoLabel,
    /// How the wish for a label's money stands.
    Void(Void),
    /// The label's file is kept.
    Filed,
    /// These labels beside the shipment's own were given back.
    Swept(Vec<(String, Void)>),
    /// Nothing that settles it; `bought` where it was a purchase.
    Failed { error: ProviderError, bought: bool },
}

impl Keeper {
    pub(super) async fn parcel_news(&self, state: &mut State, news: News) {
        match news {
            News::Answered { task_id, answer } => self.parcel_answered(state, task_id, &answer).await,
            News::Tracked { shipment_id, facts, inbox_id } => {
                self.context.faults.hit("order.tracked", "");
                let learn = |draft: &mut Draft<'_>| draft.tracked(shipment_id, facts.clone());
                self.learn_of_parcel(state, inbox_id, learn).await;
            }
            News::NotTracked => self.learn_of_parcel(state, None, |draft| draft.put_off_tracking()).await,
            News::LabelMoved { shipment_id, inbox_id } => {
                self.learn_of_parcel(state, Some(inbox_id), |draft| draft.hasten(shipment_id)).await;
            }
        }
    }

    async fn parcel_answered(&self, state: &mut State, task_id: TaskId, answer: &Answer) {
        let Some(task) = state.order.tasks.iter().find(|task| task.id == task_id).cloned() else { return };
        let settle = |draft: &mut Draft<'_>| {
            match answer {
                Answer::Label(label) => draft.label_answered(&task, label),
                Answer::Found(label) => draft.label_found(&task, label),
                Answer::NoLabel => draft.no_label(&task),
                Answer::Void(void) => draft.void_answered(&task, *void),
                Answer::Filed => draft.task_done(task.id),
                Answer::Swept(strays) => draft.swept(&task, strays),
                Answer::Failed { error, bought } => draft.parcel_call_failed(&task, error, *bought),
            }
            Ok(((), Vec::new()))
        };
        let settled = self.decide(state, Who::Provider, Beside::Nothing, settle).await;
        if settled.is_err() {
            self.put_off(state, Some(task_id)).await;
        }
        self.context.faults.hit("shipping.answered", "");
        self.after_news(state, settled).await;
    }

    async fn learn_of_parcel(&self, state: &mut State, inbox_id: Option<i64>, learn: impl Fn(&mut Draft<'_>)) {
        let mark = inbox_id.map(|inbox_id| InboxMark { inbox_id, outcome: "applied" });
        let beside = mark.map_or(Beside::Nothing, Beside::Webhook);
        let learn = |draft: &mut Draft<'_>| {
            learn(draft);
            Ok(((), Vec::new()))
        };
        let settled = self.decide(state, Who::Provider, beside, learn).await;
        self.after_news(state, settled).await;
    }

    /// A shipment goes with somebody that this shop has set up, be it chosen by staff or by the buyer.
    pub(super) fn check_carrier(&self, order: &Order, command: &Command) -> Result<(), Refusal> {
        let Command::Pack(packing) = command else { return Ok(()) };
        let service = packing.service.clone().unwrap_or_else(|| order.chosen_service());
        if self.ships_with(&service) {
            Ok(())
        } else {
            Err(Invalid::new("service.provider", "is not one that this shop ships with").into())
        }
    }

    fn ships_with(&self, service: &Service) -> bool {
        let asked = self.context.ship_from.is_some() && self.context.carriers.contains_key(service.provider.as_str());
        service.is_manual() || asked
    }

    /// Hands every due call about a parcel to its shipping actor. A purchase is made by the first to hand it over, in the
    /// life of the actor that decided on it; whoever comes later only looks for what it may have bought.
    pub(super) async fn dispatch_parcels(&self, state: &mut State) {
        let now = self.context.clock.now();
        let due = state.order.tasks.iter().filter(|task| task.due_at <= now);
        let due: Vec<Task> = due.filter(|task| task.about.shipment_id().is_some()).cloned().collect();
        for task in due {
            let first = state.unasked.remove(&task.id);
            let Some((carrier, job)) = self.parcel_job(&state.order, &task, first) else {
                self.put_off(state, Some(task.id)).await;
                continue;
            };
            self.shipping.run(&carrier, JobKey::Task(task.id), job).await;
        }
    }

    fn parcel_job(&self, order: &Order, task: &Task, first: bool) -> Option<(String, Job)> {
        let About::Shipment(shipment_id) = task.about else { return None };
        let shipment = order.shipments.iter().find(|shipment| shipment.id == shipment_id)?;
        if !self.ships_with(&shipment.service) {
            return None;
        }
        let what = self.parcel_call(order, shipment, task, first)?;
        let job = Job { order_id: self.order_id, shipment_id, what };
        Some((shipment.service.provider.clone(), job))
    }

    fn parcel_call(&self, order: &Order, shipment: &Shipment, task: &Task, first: bool) -> Option<What> {
        let task_id = task.id;
        match (task.kind, shipment.label_id.clone()) {
            (TaskKind::BuyLabel, Some(label_id)) => Some(What::Look { task_id, label_id }),
            (TaskKind::BuyLabel, None) => {
                let wish = BuyLabel {
                    shipment_id: shipment.id,
                    service: shipment.service.clone(),
                    from: self.context.ship_from.clone()?,
                    to: order.ship_to.clone(),
                    email: None,
                    parcel: shipment.parcel,
                    customs: shipment.customs.clone(),
                };
                Some(What::Buy { task_id, wish: Box::new(wish), look: !first })
            }
            (TaskKind::VoidLabel, Some(label_id)) => Some(What::Void { task_id, label_id }),
            (TaskKind::FetchLabel, Some(label_id)) => {
                Some(What::Fetch { task_id, label_id, url: shipment.file_url.clone() })
            }
            (TaskKind::SweepLabels, own) => Some(What::Sweep { task_id, own }),
            _ => None,
        }
    }

    /// Asks carriers that have not called although it is time.
    pub(super) async fn check_parcels(&self, state: &mut State) {
        let now = self.context.clock.now();
        let due = |shipment: &&Shipment| shipment.check_at.is_some_and(|due| due <= now);
        let mut unasked = false;
        for shipment in state.order.shipments.iter().filter(due) {
            let (Some(carrier), Some(number)) = (&shipment.carrier, &shipment.tracking_number) else {
                unasked = true;
                continue;
            };
            if !self.ships_with(&shipment.service) {
                unasked = true;
                continue;
            }
            let what = What::Track { carrier: carrier.clone(), tracking_number: number.clone() };
            let job = Job { order_id: self.order_id, shipment_id: shipment.id, what };
            self.shipping.run(&shipment.service.provider, JobKey::Track(shipment.id), job).await;
        }
        if unasked {
            self.learn_of_parcel(state, None, |draft| draft.put_off_tracking()).await;
        }
    }
}
