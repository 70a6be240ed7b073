//! What people ask of a placed order.

/// One wish. The order's actor decides it; the key that comes with it makes its repetition harmless.
#[derive(Debug, Clone)]
pub enum Command {
    /// Nothing of it is shipped until it is released.
    Hold {
        /// Why, for the timeline.
        reason: String,
    },
    /// It may be shipped again.
    Release,
    /// A line for the timeline that only staff see.
    Note {
        /// What it says.
        text: String,
    },
}

/// What a command came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commanded {
    /// The id of what it made, or a number of its own where it made nothing that has one.
    pub id: i64,
    /// Whether it had been carried out before, with the same key.
    pub replayed: bool,
}
