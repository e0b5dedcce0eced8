//! Results as people look at them: on a terminal, and as one HTML page.

pub mod html;

pub mod charts;

pub mod plot;

pub mod terminal;

pub mod verdict;
