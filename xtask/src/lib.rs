//! The rooms of the developer's command: the drill's world (namespaces and the cable) and its outside client
//! and judge.

pub mod load;
pub mod ns;
pub mod world;
