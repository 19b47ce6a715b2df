//! taiyi-instruct
#![forbid(unsafe_code)]
