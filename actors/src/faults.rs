//! Places where a test may break the engine: a process that dies exactly there, an actor that panics exactly there.
//!
//! Nothing happens unless a fault is armed, which production refuses (`SOUK_FAULT` is a start-up error there).

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

/// Every named place, in the order in which a sale passes them. A test loops over this list.
pub const POINTS: &[&str] = &[
    "checkout.begun",
    "sku.hold",
    "checkout.held",
    "checkout.appended",
    "journal.before_commit",
    "journal.after_commit",
    "checkout.committed",
    "payment.before_create",
    "payment.after_create",
    "payment.announced",
    "inbox.stored",
    "payment.before_inspect",
    "payment.after_inspect",
    "order.learned",
    "payment.before_capture",
    "payment.after_capture",
    "order.confirmed",
    "order.before_expire",
    "payment.before_refund",
    "payment.after_refund",
    "outbox.before_send",
    "outbox.after_send",
];

/// Places that no sale passes.
pub const BULK_POINTS: &[&str] = &["import.chunk"];

/// Every named place where reserved money is let go.
pub const VOID_POINTS: &[&str] = &["payment.before_void", "payment.after_void"];

/// Every named place that a parcel passes after the sale, in that order.
pub const PARCEL_POINTS: &[&str] = &[
    "shipping.before_buy",
    "shipping.after_buy",
    "shipping.answered",
    "shipping.before_void",
    "shipping.after_void",
    "order.tracked",
];

/// Every named place of what is done for a label beside buying and voiding it.
pub const LABEL_POINTS: &[&str] = &["shipping.after_fetch", "shipping.after_sweep"];

/// All of them.
pub const LISTS: &[&[&str]] = &[POINTS, BULK_POINTS, VOID_POINTS, PARCEL_POINTS, LABEL_POINTS];

/// What happens at an armed place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process ends at once, as by `kill -9`.
    Abort,
    /// The task or actor panics.
    Panic,
}

#[derive(Debug)]
struct Armed {
    point: String,
    key: Option<String>,
    fault: Fault,
    /// Passes that go well first.
    spare: u32,
    /// Times it strikes after that.
    times: u32,
}

/// The faults of one engine.
#[derive(Debug, Default)]
pub struct Faults {
    any: AtomicBool,
    armed: Mutex<Vec<Armed>>,
}

impl Faults {
    /// Arms a place: after `spare` passes, `times` times; only for `key` where one is given.
    pub fn arm(&self, point: &str, key: Option<&str>, fault: Fault, spare: u32, times: u32) {
        let armed = Armed { point: point.to_owned(), key: key.map(str::to_owned), fault, spare, times };
        self.armed.lock().expect("no panic under this lock").push(armed);
        self.any.store(true, Ordering::Relaxed);
    }

    /// Disarms everything.
    pub fn clear(&self) {
        self.armed.lock().expect("no panic under this lock").clear();
        self.any.store(false, Ordering::Relaxed);
    }

    /// Reads `abort:checkout.held:2` — die at the third pass of that place — as tests give it to a child process.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn arm_text(&self, text: &str) -> Result<(), String> {
        let mut words = text.splitn(3, ':');
        let fault = match words.next() {
            Some("abort") => Fault::Abort,
            Some("panic") => Fault::Panic,
            other => return Err(format!("a fault is `abort:…` or `panic:…`, not {other:?}")),
        };
        let point =
            words.next().filter(|point| LISTS.iter().any(|points| points.contains(point))).ok_or("no such place")?;
        let spare = words.next().unwrap_or("0").parse().map_err(|_| "the number of passes is a number")?;
        self.arm(point, None, fault, spare, 1);
        Ok(())
    }

    /// The engine passes a place. Costs one relaxed load while nothing is armed.
    #[inline]
    pub fn hit(&self, point: &'static str, key: &str) {
        if self.any.load(Ordering::Relaxed) {
            self.strike(point, key);
        }
    }

    /// As [`Faults::hit`], with a key that costs something to write.
    #[inline]
    pub(crate) fn hit_for(&self, point: &'static str, key: impl FnOnce() -> String) {
        if self.any.load(Ordering::Relaxed) {
            self.strike(point, &key());
        }
    }

    #[cold]
    fn strike(&self, point: &'static str, key: &str) {
        let fault = {
            let mut armed = self.armed.lock().expect("no panic under this lock");
            let concerned =
                |armed: &&mut Armed| armed.point == point && armed.key.as_deref().is_none_or(|only| only == key);
            let Some(armed) = armed.iter_mut().find(concerned) else { return };
            if armed.spare > 0 {
                armed.spare -= 1;
                return;
            }
            if armed.times == 0 {
                return;
            }
            armed.times -= 1;
            armed.fault
        };
        match fault {
            Fault::Abort => std::process::abort(),
            Fault::Panic => panic!("fault armed at {point} {key}"),
        }
    }
}
