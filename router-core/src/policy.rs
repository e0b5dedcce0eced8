//! Pure decisions: no clock, no lock, no input or output, no hash order.

pub mod records;
