//! What people ask about goods that come back.

use serde_json::{Value, json};

use super::{Draft, parcels::units_of};
use crate::domain::{
    Inspected, Invalid, OrderStatus, PartState, Refusal, Return, ReturnId, ReturnLine, ReturnState, ReturnStep, Units,
    Wanted, change::Cause,
};

impl Draft<'_> {
    /// Opens a return of units that left and are in no other one.
    pub(super) fn ask_return(&mut self, wanted: &[Wanted], note: Option<&str>) -> Result<i64, Refusal> {
        match self.order.status {
            OrderStatus::Confirmed | OrderStatus::Completed => {}
            OrderStatus::AwaitingPayment | OrderStatus::Cancelling | OrderStatus::Cancelled | OrderStatus::Expired => {
                return Err(self.not_now("nothing of it was shipped"));
            }
        }
        let lines = self.to_return(wanted)?;
        let id = ReturnId(self.next_id());
        self.order.returns.push(Return {
            id,
            state: ReturnState::Requested,
            lines,
            note: note.map(str::to_owned),
            refund_command: None,
            shipment_id: None,
            created_at: self.at,
        });
        self.note_return(id);
        self.return_event(id, "return_requested", json!({ "lines": self.told(id) }));
        Ok(id.0)
    }

    fn to_return(&self, wanted: &[Wanted]) -> Result<Vec<ReturnLine>, Refusal> {
        let units = self.merged(&wanted.iter().map(|wish| wish.units).collect::<Vec<_>>())?;
        let line = |units: Units| {
            let sold = self.order.lines().find(|part| part.line == units.line)?;
            let wish = wanted.iter().find(|wish| wish.units.line == units.line)?;
            Some(ReturnLine {
                line: units.line,
                sku_id: sold.sku_id,
                quantity: units.quantity,
                reason: wish.reason.clone(),
                received: 0,
                restocked: 0,
                quarantined: 0,
                scrapped: 0,
            })
        };
        let lines: Vec<ReturnLine> = units.into_iter().filter_map(line).collect();
        if lines.iter().any(|line| line.quantity > self.order.returnable(line.line)) {
            return Err(self.not_now("fewer units of a line were shipped and are in no return"));
        }
        Ok(lines)
    }

    /// Does something about a return.
    pub(super) fn step_return(&mut self, return_id: ReturnId, step: &ReturnStep) -> Result<(), Refusal> {
        match step {
            ReturnStep::Approve => self.agree(return_id, ReturnState::Approved, "return_approved", json!({})),
            ReturnStep::Decline { reason } => {
                self.agree(return_id, ReturnState::Declined, "return_declined", json!({ "reason": reason }))
            }
            ReturnStep::Sent => {
                self.expect(return_id, |state| state == ReturnState::Approved, "it is not agreed to")?;
                self.set_return(return_id, ReturnState::InTransit, "return_sent", json!({}));
                Ok(())
            }
            ReturnStep::Receive { lines } => self.receive(return_id, lines),
            ReturnStep::Inspect { lines, refund } => self.inspect(return_id, lines, *refund),
            ReturnStep::Close { refund } => self.close_return(return_id, *refund),
        }
    }

    fn agree(&mut self, return_id: ReturnId, to: ReturnState, kind: &'static str, more: Value) -> Result<(), Refusal> {
        self.expect(return_id, |state| state == ReturnState::Requested, "it is decided already")?;
        self.set_return(return_id, to, kind, more);
        Ok(())
    }

    fn receive(&mut self, return_id: ReturnId, arrived: &[Units]) -> Result<(), Refusal> {
        if !self.goods(return_id)?.is_awaited() {
            return Err(self.not_now("nothing of this return is awaited"));
        }
        let arrived = &self.merged(arrived)?;
        let mut lines = self.goods(return_id)?.lines.clone();
        if arrived.iter().any(|units| !lines.iter().any(|line| line.line == units.line)) {
            return Err(Refusal::NotFound("line"));
        }
        for line in &mut lines {
            let units = units_of(arrived, line.line);
            if units > line.quantity - line.received {
                return Err(self.not_now("more arrived than the return is of"));
            }
            line.received += units;
        }
        let whole = lines.iter().all(|line| line.received == line.quantity);
        let to = if whole { ReturnState::Received } else { ReturnState::PartlyReceived };
        self.set_lines(return_id, lines);
        let told: Vec<Value> = arrived.iter().map(|u| json!({ "line": u.line, "quantity": u.quantity })).collect();
        self.set_return(return_id, to, "return_received", json!({ "lines": told, "complete": whole }));
        Ok(())
    }

    /// Decides what becomes of everything that arrived.
    fn inspect(&mut self, return_id: ReturnId, verdicts: &[Inspected], refund: bool) -> Result<(), Refusal> {
        let here = |state| matches!(state, ReturnState::PartlyReceived | ReturnState::Received);
        self.expect(return_id, here, "nothing of it is here to be looked at")?;
        let mut lines = self.goods(return_id)?.lines.clone();
        if verdicts.iter().any(|verdict| !lines.iter().any(|line| line.line == verdict.line)) {
            return Err(Refusal::NotFound("line"));
        }
        if verdicts.iter().any(|verdict| verdict.restock.min(verdict.quarantine).min(verdict.scrap) < 0) {
            return Err(Invalid::new("lines", "has a quantity below none").into());
        }
        for line in &mut lines {
            let told = verdicts.iter().filter(|verdict| verdict.line == line.line);
            let mut units = told.clone().flat_map(|verdict| [verdict.restock, verdict.quarantine, verdict.scrap]);
            if units.try_fold(0i64, i64::checked_add) != Some(line.received) {
                return Err(self.not_now("what becomes of every unit that arrived is to be said, and of no other"));
            }
            for verdict in told {
                line.restocked += verdict.restock;
                line.quarantined += verdict.quarantine;
                line.scrapped += verdict.scrap;
            }
        }
        for line in &lines {
            for (units, to, cause) in [
                (line.restocked, PartState::Restocked, Cause::Restock),
                (line.quarantined, PartState::Quarantined, Cause::Quarantine),
                (line.scrapped, PartState::Scrapped, Cause::Scrap),
            ] {
                self.move_units(line.line, units, PartState::Shipped, to, cause);
            }
        }
        self.set_lines(return_id, lines);
        self.set_return(
            return_id,
            ReturnState::Inspected,
            "return_inspected",
            json!({ "lines": self.told(return_id) }),
        );
        if refund { self.refund_return(return_id) } else { Ok(()) }
    }

    fn close_return(&mut self, return_id: ReturnId, refund: bool) -> Result<(), Refusal> {
        let may_end = |state| matches!(state, ReturnState::Approved | ReturnState::InTransit | ReturnState::Inspected);
        self.expect(return_id, may_end, "it is not to be closed yet, or no more")?;
        if refund {
            self.refund_return(return_id)?;
        }
        self.set_return(return_id, ReturnState::Closed, "return_closed", json!({}));
        Ok(())
    }

    /// What arrived is paid back, linked to the return.
    fn refund_return(&mut self, return_id: ReturnId) -> Result<(), Refusal> {
        let goods = self.goods(return_id)?;
        if goods.refund_command.is_some() {
            return Err(self.not_now("it is paid back already"));
        }
        let arrived = goods.lines.iter().map(|line| Units { line: line.line, quantity: line.received });
        let arrived: Vec<Units> = arrived.filter(|units| units.quantity > 0).collect();
        if arrived.is_empty() {
            return Err(self.not_now("nothing of it arrived"));
        }
        let command_id = self.refund_returned(arrived)?;
        if let Some(goods) = self.order.returns.iter_mut().find(|goods| goods.id == return_id) {
            goods.refund_command = Some(command_id);
        }
        self.note_return(return_id);
        Ok(())
    }

    // ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn goods(&self, return_id: ReturnId) -> Result<&Return, Refusal> {
        let found = self.order.returns.iter().find(|goods| goods.id == return_id);
        found.ok_or(Refusal::NotFound("return"))
    }

    fn expect(
        &self,
        return_id: ReturnId,
        fits: impl Fn(ReturnState) -> bool,
        why: &'static str,
    ) -> Result<(), Refusal> {
        if fits(self.goods(return_id)?.state) { Ok(()) } else { Err(self.not_now(why)) }
    }

    fn set_lines(&mut self, return_id: ReturnId, lines: Vec<ReturnLine>) {
        if let Some(goods) = self.order.returns.iter_mut().find(|goods| goods.id == return_id) {
            goods.lines = lines;
        }
    }

    fn set_return(&mut self, return_id: ReturnId, to: ReturnState, kind: &'static str, more: Value) {
        if let Some(goods) = self.order.returns.iter_mut().find(|goods| goods.id == return_id) {
            goods.state = to;
        }
        self.note_return(return_id);
        self.return_event(return_id, kind, more);
    }

    /// The lines of a return, for the timeline.
    fn told(&self, return_id: ReturnId) -> Vec<Value> {
        let line = |line: &ReturnLine| {
            json!({
                "line": line.line, "sku_id": line.sku_id, "quantity": line.quantity, "reason": line.reason,
                "restocked": line.restocked, "quarantined": line.quarantined, "scrapped": line.scrapped,
            })
        };
        self.goods(return_id).map(|goods| goods.lines.iter().map(line).collect()).unwrap_or_default()
    }
}
