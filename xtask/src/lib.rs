//! The rooms of the developer's command: the drill's world (namespaces and the cable), emulated hosts in it, and its
//! outside client and judge.

pub mod hosts;
pub mod load;
pub mod ns;
pub mod world;
