//! The core, by tables of hand-made timelines, by properties, and by snapshots of what people read.

mod advice;
mod case;
mod checking;
mod connections;
mod facts;
mod fleets;
mod health;
mod judging;
mod kubelet;
mod manifest;
mod measuring;
mod peace;
mod pods;
mod properties;
mod reading;
mod requests;
mod rollout;
mod run;
mod service;
mod signals;
mod story;
mod target_group;
mod target_group_properties;
mod target_group_settings;
mod terraform;
mod words;
