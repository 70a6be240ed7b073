//! What goes wrong between a shop and its relay, on request. First in, first out, each in its own moment.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Fault {
    /// A connection is closed before a word is said.
    Down,
    /// A reply comes late.
    Slow { ms: u64 },
    /// Try again later.
    Greylist {
        #[serde(default = "busy")]
        code: u16,
        #[serde(default)]
        at: Moment,
    },
    /// A recipient is not taken.
    Refuse {
        #[serde(default = "no_mailbox")]
        code: u16,
        /// Only those with this in their address.
        to: Option<String>,
    },
    /// The connection is cut at DATA.
    DropBeforeData,
    /// The connection is cut while the message is sent.
    DropInData,
    /// The message is kept, and the connection is cut instead of saying so.
    DropAfterKept,
    /// The message is lost, and the connection is cut.
    DropAfterLost,
    /// A reply cannot be read.
    Garbage,
}

/// When somebody is asked to come again.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Moment {
    Connect,
    Mail,
    #[default]
    Rcpt,
    Data,
    /// When the message is there.
    Content,
}

fn busy() -> u16 {
    450
}

fn no_mailbox() -> u16 {
    550
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Rule {
    /// How often it strikes; 0 is for ever.
    #[serde(default = "once")]
    times: u32,
    #[serde(flatten)]
    fault: Fault,
}

fn once() -> u32 {
    1
}

#[derive(Default)]
pub(super) struct Faults(Mutex<VecDeque<Rule>>);

impl Faults {
    pub(super) fn add(&self, rule: Rule) {
        self.locked().push_back(rule);
    }

    pub(super) fn clear(&self) {
        self.locked().clear();
    }

    pub(super) fn list(&self) -> Vec<Rule> {
        self.locked().iter().cloned().collect()
    }

    pub(super) fn is_down(&self) -> bool {
        self.strike(|fault| matches!(fault, Fault::Down).then_some(())).is_some()
    }

    pub(super) fn pause(&self) -> Option<Duration> {
        self.strike(|fault| if let Fault::Slow { ms } = fault { Some(Duration::from_millis(*ms)) } else { None })
    }

    pub(super) fn garbles(&self) -> bool {
        self.strike(|fault| matches!(fault, Fault::Garbage).then_some(())).is_some()
    }

    /// The code that asks to come again, in this moment.
    pub(super) fn greylists(&self, moment: Moment) -> Option<u16> {
        self.strike(|fault| match fault {
            Fault::Greylist { code, at } if *at == moment => Some(*code),
            _ => None,
        })
    }

    /// The code that refuses this recipient.
    pub(super) fn refuses(&self, recipient: &str) -> Option<u16> {
        self.strike(|fault| match fault {
            Fault::Refuse { code, to } if to.as_ref().is_none_or(|part| recipient.contains(part.as_str())) => {
                Some(*code)
            }
            _ => None,
        })
    }

    pub(super) fn drops_before_data(&self) -> bool {
        self.strike(|fault| matches!(fault, Fault::DropBeforeData).then_some(())).is_some()
    }

    pub(super) fn drops_in_data(&self) -> bool {
        self.strike(|fault| matches!(fault, Fault::DropInData).then_some(())).is_some()
    }

    /// Whether the connection is cut after the last dot, and if so whether the message is kept.
    pub(super) fn drops_after_data(&self) -> Option<bool> {
        self.strike(|fault| match fault {
            Fault::DropAfterKept => Some(true),
            Fault::DropAfterLost => Some(false),
            _ => None,
        })
    }

    fn strike<T>(&self, fits: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        let mut rules = self.locked();
        let (index, struck) = rules.iter().enumerate().find_map(|(at, rule)| Some((at, fits(&rule.fault)?)))?;
        match rules[index].times {
            0 => {}
            1 => {
                rules.remove(index);
            }
            _ => rules[index].times -= 1,
        }
        Some(struck)
    }

    fn locked(&self) -> MutexGuard<'_, VecDeque<Rule>> {
        self.0.lock().expect("nothing panics while it holds the rules")
    }
}
