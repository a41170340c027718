//! Whole rooms in memory, on a virtual clock: shards on one side, str0m clients on the other, links with seeded loss
//! between them. Nothing here sleeps or opens a socket.

mod client;
mod luck;
mod media;
mod world;

mod churn;
mod data;
mod fanout;
mod features;
mod forwarding;
mod limits;
mod lipsync;
mod path;
mod quality;
mod relay;
mod report;
mod room;
mod screen;
mod speakers;
