//! An order's goods: what is packed, what its label comes to, when it leaves, and where it is.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{Draft, patience};
use crate::domain::{
    About, Funds, Label, LabelStatus, OrderStatus, Packing, PartState, ProviderError, Refusal, Return, ReturnId,
    ReturnLine, ReturnState, Shipment, ShipmentEvent, ShipmentId, ShipmentLine, ShipmentState, Task, TaskId, TaskKind,
    TaskState, Tracking, TrackingStatus, Units, Void,
    change::{Cause, ReturnRow, ShipmentRow},
    printable,
};

/// How long a purchase whose end nobody heard of is only looked for: a carrier may still be at it after we have hung up.
const QUIET: TimeDelta = TimeDelta::minutes(2);
/// What carriers say of a parcel that travels and cannot go on without its buyer, in Shippo's words.
const NEEDS_BUYER: [&str; 8] = [
    "address_issue",
    "contact_carrier",
    "delivery_attempted",
    "location_inaccessible",
    "notice_left",
    "package_held",
    "pickup_available",
    "reschedule_delivery",
];
/// How long a label's file is asked for that its carrier refuses to give out.
const FILE_PATIENCE: TimeDelta = TimeDelta::days(2);
/// When labels beside a shipment's own are looked for, after a purchase that was in doubt: at once, and twice later.
const SWEEPS: [TimeDelta; 2] = [TimeDelta::minutes(15), TimeDelta::days(1)];

impl Draft<'_> {
    // ── what staff ask ───────────────────────────────────────────────────────────────────────────────────────────────

    /// Packs units that are sold and in no shipment yet, and has the label bought once nothing stands in its way.
    pub(super) fn pack(&mut self, wish: &Packing) -> Result<i64, Refusal> {
        self.may_ship()?;
        if self.money_for_goods() == Funds::Gone {
            return Err(self.not_now("there is no money for it"));
        }
        let lines = self.to_pack(wish.lines.as_deref())?;
        let id = ShipmentId(self.next_id());
        self.order.shipments.push(Shipment {
            id,
            state: ShipmentState::Draft,
            lines,
            service: wish.service.clone().unwrap_or_else(|| self.order.chosen_service()),
            parcel: wish.parcel,
            customs: wish.customs.clone(),
            waits: None,
            label_id: None,
            carrier: wish.carrier.clone(),
            tracking_number: wish.tracking_number.clone(),
            tracking_url: None,
            file_url: None,
            cost: None,
            error: None,
            doubt_until: None,
            created_at: self.at,
            bought_at: None,
            left_at: None,
            news_at: self.at,
            check_at: None,
            checks: 0,
            facts: Vec::new(),
        });
        self.note_shipment(id);
        self.parcel_event(id, "shipment_created", json!({}));
        Ok(id.0)
    }

    fn may_ship(&self) -> Result<(), Refusal> {
        if self.order.status != OrderStatus::Confirmed {
            return Err(self.not_now("only a confirmed order is shipped"));
        }
        if self.order.hold_reason.is_some() {
            return Err(self.not_now("it is held back"));
        }
        Ok(())
    }

    fn to_pack(&self, wanted: Option<&[Units]>) -> Result<Vec<ShipmentLine>, Refusal> {
        let wanted = wanted.map(|wanted| self.merged(wanted)).transpose()?;
        let mut packed = Vec::new();
        for part in self.order.lines() {
            let unpacked = self.order.unpacked(part.line);
            let quantity = wanted.as_ref().map_or(unpacked, |wanted| units_of(wanted, part.line));
            if quantity > unpacked {
                return Err(self.not_now("a line has fewer units that are in no shipment yet"));
            }
            if quantity > 0 {
                packed.push(ShipmentLine { line: part.line, sku_id: part.sku_id, quantity });
            }
        }
        if packed.is_empty() { Err(self.not_now("everything is in a shipment already")) } else { Ok(packed) }
    }

    /// The label that the carrier did not give is asked for again.
    pub(super) fn retry_label(&mut self, shipment_id: ShipmentId) -> Result<(), Refusal> {
        self.may_ship()?;
        if self.shipment(shipment_id)?.state != ShipmentState::LabelFailed {
            return Err(self.not_now("its label has not failed"));
        }
        self.want_label(shipment_id);
        Ok(())
    }

    /// Calls a shipment off that has not left: where there is a label, the carrier decides.
    pub(super) fn call_off(&mut self, shipment_id: ShipmentId) -> Result<(), Refusal> {
        match self.shipment(shipment_id)?.state {
            ShipmentState::Purchasing => Err(self.not_now("its label is being bought")),
            ShipmentState::Voiding | ShipmentState::Voided => Ok(()),
            ShipmentState::Draft
            | ShipmentState::LabelFailed
            | ShipmentState::Labelled
            | ShipmentState::VoidRejected => {
                self.give_up(shipment_id, "called off");
                Ok(())
            }
            ShipmentState::InTransit
            | ShipmentState::Exception
            | ShipmentState::ReturnedToSender
            | ShipmentState::Delivered => Err(self.not_now("the parcel has left")),
        }
    }

    /// The carrier does not take the label back, and the parcel is here all the same: its units are free again, and the
    /// label's money is lost. Who says so has seen the parcel, for a label that is in use is not taken back either.
    pub(super) fn write_off(&mut self, shipment_id: ShipmentId) -> Result<(), Refusal> {
        let (state, cost) = self.shipment(shipment_id).map(|shipment| (shipment.state, shipment.cost))?;
        if state == ShipmentState::Voided {
            return Ok(());
        }
        if state != ShipmentState::VoidRejected {
            return Err(self.not_now("its carrier has not refused to take the label back"));
        }
        self.advance(shipment_id, ShipmentEvent::Dropped);
        self.parcel_event(shipment_id, "label_written_off", json!({ "cost": cost }));
        self.sweep_if_doubted(shipment_id);
        Ok(())
    }

    /// Gives a shipment up that has not left: at once where there is no label, else when the carrier has decided.
    fn give_up(&mut self, shipment_id: ShipmentId, why: &str) {
        let Ok(shipment) = self.shipment(shipment_id) else { return };
        if shipment.label_id.is_some() {
            if self.advance(shipment_id, ShipmentEvent::VoidWanted) {
                self.open_task(TaskKind::VoidLabel, About::Shipment(shipment_id), TimeDelta::zero());
                self.parcel_event(shipment_id, "label_voiding", json!({ "why": why }));
            }
        } else if self.advance(shipment_id, ShipmentEvent::Dropped) {
            self.parcel_event(shipment_id, "shipment_dropped", json!({ "why": why }));
            self.sweep_if_doubted(shipment_id);
        }
    }

    /// An order that is called off gives up every shipment that has not left.
    pub(super) fn call_off_shipments(&mut self, why: &str) {
        for shipment_id in self.shipments_in(Shipment::is_packed) {
            self.give_up(shipment_id, why);
        }
    }

    /// Makes units free that are to be called off, out of shipments that have no label.
    pub(super) fn unpack(&mut self, wanted: &[Units]) {
        for units in wanted {
            let free = |shipment: &Shipment| {
                shipment.units(units.line) > 0
                    && shipment.label_id.is_none()
                    && shipment.state.after(ShipmentEvent::Dropped).is_some()
            };
            for shipment_id in self.shipments_in(free) {
                if self.order.unpacked(units.line) < units.quantity {
                    self.give_up(shipment_id, "units of it are called off");
                }
            }
        }
    }

    fn shipments_in(&self, which: impl Fn(&Shipment) -> bool) -> Vec<ShipmentId> {
        self.order.shipments.iter().filter(|shipment| which(shipment)).map(|shipment| shipment.id).collect()
    }

    /// The parcel was handed over.
    pub(super) fn hand_over(&mut self, shipment_id: ShipmentId) -> Result<(), Refusal> {
        let shipment = self.shipment(shipment_id)?;
        if shipment.left_at.is_some() {
            return Ok(()); // the carrier was faster
        }
        if !shipment.is_ready() {
            return Err(self.not_now("the shipment is not ready"));
        }
        if self.order.hold_reason.is_some() {
            return Err(self.not_now("it is held back"));
        }
        self.leave(shipment_id, ShipmentEvent::Left);
        Ok(())
    }

    /// The buyer has it, as staff knows: a carrier that nobody asks does not say so.
    pub(super) fn handed_out(&mut self, shipment_id: ShipmentId) -> Result<(), Refusal> {
        let shipment = self.shipment(shipment_id)?;
        if shipment.state == ShipmentState::Delivered {
            return Ok(());
        }
        if shipment.left_at.is_none() {
            return Err(self.not_now("the parcel has not left"));
        }
        self.leave(shipment_id, ShipmentEvent::Arrived);
        Ok(())
    }

    // ── what carriers answer ─────────────────────────────────────────────────────────────────────────────────────────

    /// What the carrier says of the label that is being bought, when it was bought or when it was looked at.
    pub fn label_answered(&mut self, task: &Task, label: &Label) {
        let Some(shipment_id) = task.about.shipment_id() else { return };
        match &label.status {
            LabelStatus::Queued => {
                self.change_shipment(shipment_id, |shipment| shipment.know(label));
                self.retry_task(task.id, None, "the carrier is at it");
            }
            LabelStatus::Bought => {
                self.task_done(task.id);
                self.label_bought(shipment_id, label);
            }
            LabelStatus::Failed(why) => {
                self.task_done(task.id);
                self.label_refused(shipment_id, why);
            }
            LabelStatus::Voiding | LabelStatus::Voided | LabelStatus::VoidRejected => {
                self.task_done(task.id);
                self.label_refused(shipment_id, "the label was given back at the carrier");
            }
        }
    }

    /// A label that somebody had bought before is this shipment's. Whether it is the only one is found out at once.
    pub fn label_found(&mut self, task: &Task, label: &Label) {
        if let Some(shipment_id) = task.about.shipment_id() {
            self.doubt(shipment_id);
        }
        self.label_answered(task, label);
    }

    /// Something became of a label: whoever waits for that asks now.
    pub fn hasten(&mut self, shipment_id: ShipmentId) {
        let waits = |task: &&mut Task| {
            task.about == About::Shipment(shipment_id) && matches!(task.kind, TaskKind::BuyLabel | TaskKind::VoidLabel)
        };
        let Some(task) = self.order.tasks.iter_mut().find(waits) else { return };
        task.due_at = self.at;
        let told = task.clone();
        self.note_task(&told, TaskState::Open, None);
    }

    fn label_bought(&mut self, shipment_id: ShipmentId, label: &Label) {
        let at = self.at;
        self.change_shipment(shipment_id, |shipment| {
            shipment.know(label);
            (shipment.bought_at, shipment.news_at, shipment.error) = (Some(at), at, None);
        });
        self.advance(shipment_id, ShipmentEvent::LabelBought);
        self.change_shipment(shipment_id, |shipment| shipment.check_at = shipment.next_check(at));
        self.parcel_event(shipment_id, "label_bought", json!({ "cost": label.cost }));
        if label.file_url.is_some() {
            self.open_task(TaskKind::FetchLabel, About::Shipment(shipment_id), TimeDelta::zero());
        }
        self.sweep_if_doubted(shipment_id);
    }

    fn label_refused(&mut self, shipment_id: ShipmentId, why: &str) {
        let why = printable(why);
        self.change_shipment(shipment_id, |shipment| {
            shipment.label_id = None;
            shipment.error = Some(why.clone());
        });
        self.advance(shipment_id, ShipmentEvent::LabelRefused);
        self.parcel_event(shipment_id, "label_failed", json!({ "why": why }));
    }

    /// Only a shipment that buys no more is swept: what a sweep finds beside its label must not be one that is being bought.
    fn sweep_if_doubted(&mut self, shipment_id: ShipmentId) {
        let about = About::Shipment(shipment_id);
        let sweeping = self.order.tasks.iter().any(|task| task.kind == TaskKind::SweepLabels && task.about == about);
        if self.shipment(shipment_id).is_ok_and(|shipment| shipment.doubt_until.is_some()) && !sweeping {
            self.open_task(TaskKind::SweepLabels, about, TimeDelta::zero());
        }
    }

    /// The carrier knows no label of this shipment. One that may be on its way is waited for; after that it is bought.
    pub fn no_label(&mut self, task: &Task) {
        let Some(shipment_id) = task.about.shipment_id() else { return };
        let Ok(shipment) = self.shipment(shipment_id) else { return };
        match shipment.doubt_until {
            None => {
                self.doubt(shipment_id);
                self.retry_task(task.id, None, "it may have been bought");
            }
            Some(until) if self.at < until => {
                let pause = (until - self.at).min(TimeDelta::seconds(30));
                self.retry_task(task.id, Some(pause), "it may have been bought");
            }
            Some(_) => {
                self.close_task(task.id, TaskState::Failed, Some("nothing was bought".to_owned()));
                if self.may_ship().is_ok() {
                    self.doubt(shipment_id);
                    self.open_task(TaskKind::BuyLabel, task.about, TimeDelta::zero());
                } else {
                    self.advance(shipment_id, ShipmentEvent::PutBack);
                }
            }
        }
    }

    /// From now on nobody knows whether a label was bought.
    fn doubt(&mut self, shipment_id: ShipmentId) {
        let until = self.at + QUIET;
        self.change_shipment(shipment_id, |shipment| shipment.doubt_until = Some(until));
    }

    /// A call about a parcel was not answered as it should be; `bought` where it was a purchase itself.
    pub fn parcel_call_failed(&mut self, task: &Task, error: &ProviderError, bought: bool) {
        let Some(shipment_id) = task.about.shipment_id() else { return };
        let said = error.to_string();
        let (pause, refused) = match error {
            ProviderError::Unknown { retry_after, .. } => {
                (retry_after.and_then(|pause| TimeDelta::from_std(pause).ok()), None)
            }
            ProviderError::AlreadyDone(_) | ProviderError::NotYet(_) => (None, None),
            ProviderError::Declined(why)
            | ProviderError::Dead(why)
            | ProviderError::Rejected(why)
            | ProviderError::TakenBack(why) => (Some(patience(task.attempts)), Some(why)),
        };
        match (task.kind, refused) {
            (TaskKind::BuyLabel, Some(why)) if bought => {
                self.close_task(task.id, TaskState::Failed, Some(said));
                self.label_refused(shipment_id, why);
            }
            (TaskKind::VoidLabel, Some(why)) => {
                self.close_task(task.id, TaskState::Failed, Some(said));
                self.void_refused(shipment_id, &printable(why));
            }
            (TaskKind::FetchLabel, _) if self.shipment(shipment_id).is_ok_and(|shipment| !shipment.is_packed()) => {
                self.close_task(task.id, TaskState::Failed, Some(said)); // nobody prints it any more
            }
            (TaskKind::FetchLabel, Some(why)) if self.at - task.created_at > FILE_PATIENCE => {
                self.close_task(task.id, TaskState::Failed, Some(said));
                let why =
                    format!("the label's file is not to be had, it is printed at the carrier's: {}", printable(why));
                self.parcel_event(shipment_id, "needs_review", json!({ "why": why }));
            }
            _ => {
                if bought {
                    self.doubt(shipment_id);
                }
                self.retry_task(task.id, pause, &said);
            }
        }
    }

    /// What the carrier says to the wish for a label's money.
    pub fn void_answered(&mut self, task: &Task, void: Void) {
        let Some(shipment_id) = task.about.shipment_id() else { return };
        match void {
            Void::Pending => self.retry_task(task.id, Some(patience(task.attempts)), "the carrier decides"),
            Void::Done => {
                self.task_done(task.id);
                self.advance(shipment_id, ShipmentEvent::VoidGranted);
                self.parcel_event(shipment_id, "label_voided", json!({}));
            }
            Void::Rejected => {
                self.task_done(task.id);
                self.void_refused(shipment_id, "the carrier keeps the money");
            }
        }
    }

    fn void_refused(&mut self, shipment_id: ShipmentId, why: &str) {
        self.advance(shipment_id, ShipmentEvent::VoidRefused);
        self.parcel_event(shipment_id, "void_rejected", json!({ "why": why }));
    }

    /// Labels beside the shipment's own were looked for, and these were there to be given back.
    pub fn swept(&mut self, task: &Task, strays: &[(String, Void)]) {
        let Some(shipment_id) = task.about.shipment_id() else { return };
        self.task_done(task.id);
        let (kept, voided): (Vec<_>, Vec<_>) = strays.iter().partition(|(_, void)| *void == Void::Rejected);
        let ids = |labels: Vec<&(String, Void)>| labels.into_iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
        if !voided.is_empty() {
            self.parcel_event(shipment_id, "stray_labels_voided", json!({ "labels": ids(voided) }));
        }
        if !kept.is_empty() {
            let why = "a label was bought twice, and the carrier keeps the money";
            self.parcel_event(shipment_id, "needs_review", json!({ "why": why, "labels": ids(kept) }));
        }
        let Ok(shipment) = self.shipment(shipment_id) else { return };
        let begun = shipment.bought_at.unwrap_or(shipment.created_at);
        if let Some(next) = SWEEPS.iter().map(|pause| begun + *pause).find(|due| *due > self.at) {
            self.open_task(TaskKind::SweepLabels, task.about, next - self.at);
        }
    }

    // ── where the parcel is ──────────────────────────────────────────────────────────────────────────────────────────

    /// The carrier said where a parcel is. Moves the shipment forward, never back.
    pub fn tracked(&mut self, shipment_id: ShipmentId, facts: Vec<Tracking>) {
        let at = self.at;
        let Some(shipment) = self.order.shipments.iter_mut().find(|shipment| shipment.id == shipment_id) else {
            return;
        };
        let was_moving = is_moving(shipment);
        let fresh = shipment.learn(facts);
        if !fresh.is_empty() {
            shipment.news_at = at;
        }
        let checked = shipment.check_at.is_some_and(|due| due <= at);
        shipment.checks += i32::from(checked);
        let moves = !was_moving && is_moving(shipment);
        let voided = shipment.state == ShipmentState::Voided;
        let news = !fresh.is_empty();
        self.changes.tracking.extend(fresh.iter().map(|fact| (shipment_id, fact.clone())));
        if voided && moves {
            let why = "the carrier moves a parcel whose label was given back";
            self.parcel_event(shipment_id, "needs_review", json!({ "why": why }));
        }
        self.follow(shipment_id, &fresh);
        if news || checked {
            self.change_shipment(shipment_id, |shipment| shipment.check_at = shipment.next_check(at));
        }
    }

    fn follow(&mut self, shipment_id: ShipmentId, fresh: &[Tracking]) {
        let Ok(shipment) = self.shipment(shipment_id) else { return };
        let Some(now) = shipment.whereabouts().cloned() else { return };
        let comes_back = shipment.comes_back();
        let event = match now.status {
            TrackingStatus::Unknown | TrackingStatus::PreTransit => return,
            TrackingStatus::Transit => ShipmentEvent::Left,
            TrackingStatus::Failure => ShipmentEvent::WentWrong,
            TrackingStatus::Returned => ShipmentEvent::TurnedBack,
            TrackingStatus::Delivered => ShipmentEvent::Arrived,
        };
        self.leave(shipment_id, event);
        if now.status == TrackingStatus::Transit && fresh.contains(&now) {
            self.tell_on_the_way(shipment_id, &now, fresh);
        }
        let turned = self.shipment(shipment_id).is_ok_and(|own| own.state == ShipmentState::ReturnedToSender);
        if comes_back || turned {
            self.await_back(shipment_id);
        }
    }

    /// What is worth telling of a parcel that travels: that it comes today, and what asks something of the buyer, each once.
    fn tell_on_the_way(&mut self, shipment_id: ShipmentId, now: &Tracking, fresh: &[Tracking]) {
        let Some(word) = now.substatus.as_deref() else { return };
        let before = |fact: &&Tracking| fact.substatus == now.substatus && !fresh.contains(fact);
        let told = self.shipment(shipment_id).is_ok_and(|shipment| shipment.facts.iter().any(|fact| before(&fact)));
        if word == "out_for_delivery" {
            self.parcel_event(shipment_id, "out_for_delivery", json!({}));
        } else if NEEDS_BUYER.contains(&word) && !told {
            let said = self.last_word(shipment_id);
            self.parcel_event(shipment_id, "delivery_needs_you", said);
        }
    }

    /// The carrier has it, whatever it says of it: the goods are gone from the shelf, once.
    fn leave(&mut self, shipment_id: ShipmentId, event: ShipmentEvent) {
        if !self.advance(shipment_id, event) {
            return;
        }
        let at = self.at;
        let Ok(shipment) = self.shipment(shipment_id) else { return };
        if shipment.left_at.is_none() {
            let lines = shipment.lines.clone();
            self.change_shipment(shipment_id, |shipment| shipment.left_at = Some(at));
            for packed in lines {
                self.move_units(packed.line, packed.quantity, PartState::Committed, PartState::Shipped, Cause::Ship);
            }
            self.close_voids(shipment_id);
            let partial = self.is_part(shipment_id);
            self.parcel_event(shipment_id, "shipped", json!({ "partial": partial }));
        }
        match event {
            ShipmentEvent::Arrived => self.parcel_event(shipment_id, "delivered", json!({})),
            ShipmentEvent::WentWrong => {
                let said = self.last_word(shipment_id);
                self.parcel_event(shipment_id, "delivery_exception", said);
            }
            ShipmentEvent::TurnedBack => {
                let said = self.last_word(shipment_id);
                self.parcel_event(shipment_id, "returned_to_sender", said);
            }
            ShipmentEvent::Left
            | ShipmentEvent::LabelWanted
            | ShipmentEvent::NoLabelNeeded
            | ShipmentEvent::PutBack
            | ShipmentEvent::LabelBought
            | ShipmentEvent::LabelRefused
            | ShipmentEvent::VoidWanted
            | ShipmentEvent::VoidGranted
            | ShipmentEvent::VoidRefused
            | ShipmentEvent::Dropped => {}
        }
    }

    /// Whether more belongs to the order than is in this parcel.
    fn is_part(&self, shipment_id: ShipmentId) -> bool {
        let Ok(shipment) = self.shipment(shipment_id) else { return false };
        let sold = |line: i32| self.order.units(line, |state| state.is_open() || state.is_out());
        self.order.lines().any(|line| shipment.units(line.line) < sold(line.line))
    }

    fn last_word(&self, shipment_id: ShipmentId) -> Value {
        let said = self.shipment(shipment_id).ok().and_then(Shipment::whereabouts);
        json!({ "details": said.map(|fact| printable(&fact.details)), "substatus": said.and_then(|fact| fact.substatus.clone()) })
    }

    /// A label that is in use is not given back.
    fn close_voids(&mut self, shipment_id: ShipmentId) {
        let about = About::Shipment(shipment_id);
        let voids = self.order.tasks.iter().filter(|task| task.kind == TaskKind::VoidLabel && task.about == about);
        let voids: Vec<TaskId> = voids.map(|task| task.id).collect();
        for task_id in voids {
            self.close_task(task_id, TaskState::Failed, Some("the parcel is on its way".to_owned()));
        }
    }

    /// What the carrier brings back unasked is awaited, once.
    fn await_back(&mut self, shipment_id: ShipmentId) {
        if self.order.returns.iter().any(|goods| goods.shipment_id == Some(shipment_id)) {
            return;
        }
        let Ok(shipment) = self.shipment(shipment_id) else { return };
        let back = |packed: &ShipmentLine| ReturnLine {
            line: packed.line,
            sku_id: packed.sku_id,
            quantity: packed.quantity.min(self.order.returnable(packed.line)),
            reason: "returned by the carrier".to_owned(),
            received: 0,
            restocked: 0,
            quarantined: 0,
            scrapped: 0,
        };
        let lines: Vec<ReturnLine> = shipment.lines.iter().map(back).filter(|line| line.quantity > 0).collect();
        if lines.is_empty() {
            return; // the buyer's own return speaks of the same goods
        }
        let id = ReturnId(self.next_id());
        self.order.returns.push(Return {
            id,
            state: ReturnState::InTransit,
            lines,
            note: None,
            refund_command: None,
            shipment_id: Some(shipment_id),
            created_at: self.at,
        });
        self.note_return(id);
        self.return_event(id, "return_opened", json!({ "shipment_id": shipment_id }));
    }

    /// A carrier that is due to be asked did not answer: again in a few minutes.
    pub fn put_off_tracking(&mut self) {
        let at = self.at;
        let due = |shipment: &&Shipment| shipment.check_at.is_some_and(|due| due <= at);
        let due: Vec<ShipmentId> = self.order.shipments.iter().filter(due).map(|shipment| shipment.id).collect();
        for shipment_id in due {
            let later: DateTime<Utc> = at + TimeDelta::minutes(5);
            self.change_shipment(shipment_id, |shipment| shipment.check_at = Some(later));
        }
    }

    // ── what follows ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// What follows from whatever was decided: drafts whose way is free go on, an order whose goods are all with the buyer
    /// is complete, what is reserved and not wanted is let go, and what is undone ends.
    pub fn follow_up(&mut self) {
        self.follow_up_goods();
        self.let_go();
        self.end_cancel();
    }

    fn follow_up_goods(&mut self) {
        if self.order.status == OrderStatus::Cancelling {
            // a label that was being bought when the order was called off; one that is kept by its carrier stays
            for shipment_id in self.shipments_in(|own| own.is_packed() && own.state != ShipmentState::VoidRejected) {
                self.give_up(shipment_id, "the order is called off");
            }
            self.go_on_with_cancel();
        }
        for shipment_id in self.shipments_in(|shipment| shipment.state == ShipmentState::Draft) {
            self.go_on_with(shipment_id);
        }
        if self.order.status == OrderStatus::Confirmed && self.order.is_served() {
            self.order.status = OrderStatus::Completed;
            self.event("completed", json!({}));
        }
    }

    fn go_on_with(&mut self, shipment_id: ShipmentId) {
        if self.order.hold_reason.is_some() {
            return self.wait_for(shipment_id, "the order is held back");
        }
        match self.money_for_goods() {
            Funds::Here => self.change_waits(shipment_id, None),
            Funds::OnItsWay => return self.wait_for(shipment_id, "the money is being taken"),
            Funds::Gone => return self.give_up(shipment_id, "there is no money for it"),
        }
        let Ok(shipment) = self.shipment(shipment_id) else { return };
        if shipment.service.is_manual() {
            self.advance(shipment_id, ShipmentEvent::NoLabelNeeded);
        } else {
            self.want_label(shipment_id);
        }
    }

    fn wait_for(&mut self, shipment_id: ShipmentId, why: &str) {
        self.change_waits(shipment_id, Some(why.to_owned()));
    }

    fn change_waits(&mut self, shipment_id: ShipmentId, waits: Option<String>) {
        if self.shipment(shipment_id).is_ok_and(|shipment| shipment.waits != waits) {
            self.change_shipment(shipment_id, |shipment| shipment.waits = waits);
        }
    }

    fn want_label(&mut self, shipment_id: ShipmentId) {
        if self.advance(shipment_id, ShipmentEvent::LabelWanted) {
            self.open_task(TaskKind::BuyLabel, About::Shipment(shipment_id), TimeDelta::zero());
        }
    }

    // ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn shipment(&self, shipment_id: ShipmentId) -> Result<&Shipment, Refusal> {
        let found = self.order.shipments.iter().find(|shipment| shipment.id == shipment_id);
        found.ok_or(Refusal::NotFound("shipment"))
    }

    /// Takes an arrow of the machine; false where there is none.
    fn advance(&mut self, shipment_id: ShipmentId, event: ShipmentEvent) -> bool {
        let next = self.shipment(shipment_id).ok().and_then(|shipment| shipment.state.after(event));
        if let Some(next) = next {
            self.change_shipment(shipment_id, |shipment| {
                shipment.state = next;
                if !shipment.is_followed() {
                    shipment.check_at = None;
                }
            });
        }
        next.is_some()
    }

    fn change_shipment(&mut self, shipment_id: ShipmentId, change: impl FnOnce(&mut Shipment)) {
        if let Some(shipment) = self.order.shipments.iter_mut().find(|shipment| shipment.id == shipment_id) {
            change(shipment);
            self.note_shipment(shipment_id);
        }
    }

    /// Notes the shipment's row as it is now; one row a shipment, the last word wins.
    fn note_shipment(&mut self, shipment_id: ShipmentId) {
        let Ok(shipment) = self.shipment(shipment_id).cloned() else { return };
        self.changes.shipments.retain(|row| row.shipment.id != shipment_id);
        self.changes.shipments.push(ShipmentRow { order_id: self.order.id, shipment });
    }

    pub(super) fn note_return(&mut self, return_id: ReturnId) {
        let Some(goods) = self.order.returns.iter().find(|goods| goods.id == return_id).cloned() else { return };
        self.changes.returns.retain(|row| row.goods.id != return_id);
        self.changes.returns.push(ReturnRow { order_id: self.order.id, goods });
    }

    fn parcel_event(&mut self, shipment_id: ShipmentId, kind: &'static str, more: Value) {
        let Ok(shipment) = self.shipment(shipment_id) else { return };
        let line = |packed: &ShipmentLine| json!({ "line": packed.line, "sku_id": packed.sku_id, "quantity": packed.quantity });
        let mut data = json!({
            "shipment_id": shipment_id,
            "carrier": shipment.carrier,
            "tracking_number": shipment.tracking_number,
            "tracking_url": shipment.tracking_url,
            "lines": shipment.lines.iter().map(line).collect::<Vec<_>>(),
        });
        merge(&mut data, more);
        self.event(kind, data);
    }

    pub(super) fn return_event(&mut self, return_id: ReturnId, kind: &'static str, more: Value) {
        let mut data = json!({ "return_id": return_id });
        merge(&mut data, more);
        self.event(kind, data);
    }
}

/// Units of one line in a list that may name it twice.
pub(super) fn units_of(wanted: &[Units], line: i32) -> i64 {
    wanted.iter().filter(|units| units.line == line).map(|units| units.quantity).sum()
}

fn is_moving(shipment: &Shipment) -> bool {
    shipment.facts.iter().any(|fact| fact.status >= TrackingStatus::Transit)
}

fn merge(data: &mut Value, more: Value) {
    if let (Value::Object(data), Value::Object(more)) = (data, more) {
        data.extend(more);
    }
}
