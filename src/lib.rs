//! Souk, the shop: everything around the engine ([`souk_actors`]). Read in this order.

// Settings, logs, and the form of errors.
pub mod config;
pub mod problem;
pub mod telemetry;

// The database, embedded or any.
pub mod database;
pub mod postgres;

// Providers: how they are called, and a stand-in for them that shares nothing with the callers.
pub mod gateways;
pub mod sandbox;

// Who may ask what; the shop's own rules and records.
pub mod auth;
pub mod shop;

// A load tester, which knows the shop by its API alone.
pub mod hammer;

// The JSON API, the command line, and the whole of it started.
pub mod app;
pub mod cli;
pub mod http;

pub use app::App;
