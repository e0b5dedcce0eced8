//! Small programs that use router-core and routerd.
