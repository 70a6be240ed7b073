//! One who comes for a thing, asks for it once, and goes.

use std::sync::Arc;

use crate::hammer::{line::Line, load::Buyer, run::Run, schedule::Turn, wish::Request};

/// A buyer who only checks out.
pub struct Rush {
    run: Arc<Run>,
    line: Line,
    request: Request,
}

impl Rush {
    /// With a connection of its own.
    #[must_use]
    pub fn new(run: Arc<Run>) -> Self {
        Self { line: run.line(), run, request: Request::default() }
    }
}

impl Buyer for Rush {
    async fn visit(&mut self, turn: Turn) {
        self.run.checkout(&mut self.line, &mut self.request, turn).await;
    }
}
