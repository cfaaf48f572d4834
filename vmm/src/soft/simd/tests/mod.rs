//! Every form against the processor that runs the tests, and what no processor can prove.

mod corpus;
mod estimate;
mod golden;
mod model;
mod native;
mod proof;
mod table;
