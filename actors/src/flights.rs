//! Checkouts under way in this process: of those with one key one flies at a time, and whoever asks again meanwhile waits
//! until it has landed. A retry would else meet its own first attempt: a promise that counts against its limit, a ticket that
//! somebody is buying with.

use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::watch;

use crate::domain::Refusal;

/// Who flies, by their key.
#[derive(Default)]
pub(crate) struct Flights(Arc<DashMap<Arc<FlightKey>, Flying>>);

/// Principal and key.
type FlightKey = (String, String);

struct Flying {
    fingerprint: [u8; 32],
    /// Made by the first who waits for it; ends with the flight.
    landing: Option<watch::Sender<()>>,
}

pub(crate) enum Boarding {
    /// Nobody flies with this key.
    First(Flight),
    /// Somebody does: wait until it has landed, and look.
    Behind(watch::Receiver<()>),
}

/// Lands when it is dropped: it travels with the checkout, whoever waits for that.
pub(crate) struct Flight {
    flights: Arc<DashMap<Arc<FlightKey>, Flying>>,
    key: Arc<FlightKey>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.remove(&self.key);
    }
}

impl Flights {
    /// Boards with a key, or tells behind whom to wait.
    ///
    /// # Errors
    /// [`Refusal::KeyReused`] where the key flies for something else.
    pub(crate) fn board(&self, principal: &str, key: &str, fingerprint: [u8; 32]) -> Result<Boarding, Refusal> {
        let key = Arc::new((principal.to_owned(), key.to_owned()));
        match self.0.entry(Arc::clone(&key)) {
            dashmap::Entry::Occupied(flying) if flying.get().fingerprint != fingerprint => Err(Refusal::KeyReused),
            dashmap::Entry::Occupied(mut flying) => {
                let landing = flying.get_mut().landing.get_or_insert_with(|| watch::channel(()).0);
                Ok(Boarding::Behind(landing.subscribe()))
            }
            dashmap::Entry::Vacant(vacant) => {
                vacant.insert(Flying { fingerprint, landing: None });
                Ok(Boarding::First(Flight { flights: Arc::clone(&self.0), key }))
            }
        }
    }
}
