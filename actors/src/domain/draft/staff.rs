//! What people ask of a placed order, each with a key.

use serde_json::json;

use super::Draft;
use crate::domain::{Command, OrderStatus, Refusal};

impl Draft<'_> {
    /// Carries a command out, or refuses it and changes nothing. Returns the id of what it made, or a number of its own.
    ///
    /// # Errors
    /// Any [`Refusal`] that is about the order as it is.
    pub fn carry_out(&mut self, command: &Command) -> Result<i64, Refusal> {
        let made = match command {
            Command::Hold { reason } => self.hold(reason).map(|()| None),
            Command::Release => self.release().map(|()| None),
            Command::Refund { what, reason } => self.refund_by_wish(what, reason).map(Some),
            Command::Capture => self.capture_by_command().map(|()| None),
            Command::Cancel { lines, reason } => self.cancel_lines(lines.as_deref(), reason).map(|()| None),
            Command::Note { text } => {
                self.event("note", json!({ "text": text }));
                Ok(None)
            }
            Command::Pack(packing) => self.pack(packing).map(Some),
            Command::BuyLabel { shipment_id } => self.retry_label(*shipment_id).map(|()| None),
            Command::VoidLabel { shipment_id } => self.call_off(*shipment_id).map(|()| None),
            Command::WriteOff { shipment_id } => self.write_off(*shipment_id).map(|()| None),
            Command::Ship { shipment_id } => self.hand_over(*shipment_id).map(|()| None),
            Command::Deliver { shipment_id } => self.handed_out(*shipment_id).map(|()| None),
            Command::AskReturn { lines, note } => self.ask_return(lines, note.as_deref()).map(Some),
            Command::Return { return_id, step } => self.step_return(*return_id, step).map(|()| None),
        }?;
        let id = made.unwrap_or_else(|| self.next_id());
        self.made = Some(id);
        Ok(id)
    }

    /// Nothing of the order is shipped until it is released.
    fn hold(&mut self, reason: &str) -> Result<(), Refusal> {
        match self.order.status {
            OrderStatus::AwaitingPayment | OrderStatus::Confirmed => {}
            OrderStatus::Completed | OrderStatus::Cancelling | OrderStatus::Cancelled | OrderStatus::Expired => {
                return Err(self.not_now("there is nothing left to hold back"));
            }
        }
        self.order.hold_reason = Some(reason.to_owned());
        self.event("held_back", json!({ "reason": reason }));
        Ok(())
    }

    fn release(&mut self) -> Result<(), Refusal> {
        let Some(reason) = self.order.hold_reason.take() else {
            return Err(self.not_now("it is not held back"));
        };
        self.event("released", json!({ "reason": reason }));
        self.hold_for_money(Some(&reason));
        Ok(())
    }

    /// What is asked does not fit the order as it is.
    pub(super) fn not_now(&self, why: &'static str) -> Refusal {
        Refusal::NotNow { status: self.order.status, why }
    }
}
