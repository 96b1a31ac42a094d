//! The core, by tables of hand-made timelines, by properties, and by snapshots of what people read.

mod case;
mod checking;
mod connections;
mod fleets;
mod health;
mod judging;
mod kubelet;
mod manifest;
mod measuring;
mod peace;
mod properties;
mod reading;
mod requests;
mod rollout;
mod run;
mod service;
mod signals;
mod target_group;
mod target_group_properties;
mod target_group_settings;
mod terraform;
mod words;
