//! The evaluation cases of RFC 8867 in virtual time: media flows with the shipped estimator and pacer, TCP beside them,
//! one bottleneck, and figures of what came of it.
//!
//! [`world`] moves packets, [`link`] is the bottleneck, [`media`] and [`tcp`] send, [`cases`] says what runs and [`figures`]
//! what is measured.

pub mod cases;
pub mod encoder;
pub mod figures;
pub mod link;
pub mod media;
pub mod plot;
pub mod str0m;
pub mod tcp;
pub mod world;

#[cfg(test)]
mod tests;
