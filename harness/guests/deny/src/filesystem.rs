//! No directory is open to begin with, so no call on a descriptor can come from an honest program.

use crate::bindings::exports::wasi::filesystem::{preopens, types};
use crate::{deny, Deny};
use types::{
    Advice, Descriptor, DescriptorBorrow, DescriptorFlags, DescriptorStat, DescriptorType,
    DirectoryEntry, DirectoryEntryStream, ErrorBorrow, ErrorCode, InputStream, MetadataHashValue,
    NewTimestamp, OpenFlags, OutputStream, PathFlags,
};

impl preopens::Guest for Deny {
    fn get_directories() -> Vec<(Descriptor, String)> {
        Vec::new()
    }
}

/// Never made.
pub struct NoFile;

impl types::Guest for Deny {
    type Descriptor = NoFile;
    type DirectoryEntryStream = NoFile;

    fn filesystem_error_code(_: ErrorBorrow<'_>) -> Option<ErrorCode> {
        None
    }
}

impl types::GuestDirectoryEntryStream for NoFile {
    fn read_directory_entry(&self) -> Result<Option<DirectoryEntry>, ErrorCode> {
        deny()
    }
}

/// Functions of the trait that all do the same.
macro_rules! denied {
    ($(fn $name:ident($($argument:ty),*) -> $returned:ty;)*) => {
        $(fn $name(&self, $(_: $argument),*) -> $returned {
            deny()
        })*
    };
}

type Answer<T = ()> = Result<T, ErrorCode>;

impl types::GuestDescriptor for NoFile {
    denied! {
        fn read_via_stream(u64) -> Answer<InputStream>;
        fn write_via_stream(u64) -> Answer<OutputStream>;
        fn append_via_stream() -> Answer<OutputStream>;
        fn advise(u64, u64, Advice) -> Answer;
        fn sync_data() -> Answer;
        fn get_flags() -> Answer<DescriptorFlags>;
        fn get_type() -> Answer<DescriptorType>;
        fn set_size(u64) -> Answer;
        fn set_times(NewTimestamp, NewTimestamp) -> Answer;
        fn read(u64, u64) -> Answer<(Vec<u8>, bool)>;
        fn write(Vec<u8>, u64) -> Answer<u64>;
        fn read_directory() -> Answer<DirectoryEntryStream>;
        fn sync() -> Answer;
        fn create_directory_at(String) -> Answer;
        fn stat() -> Answer<DescriptorStat>;
        fn stat_at(PathFlags, String) -> Answer<DescriptorStat>;
        fn set_times_at(PathFlags, String, NewTimestamp, NewTimestamp) -> Answer;
        fn link_at(PathFlags, String, DescriptorBorrow<'_>, String) -> Answer;
        fn open_at(PathFlags, String, OpenFlags, DescriptorFlags) -> Answer<Descriptor>;
        fn readlink_at(String) -> Answer<String>;
        fn remove_directory_at(String) -> Answer;
        fn rename_at(String, DescriptorBorrow<'_>, String) -> Answer;
        fn symlink_at(String, String) -> Answer;
        fn unlink_file_at(String) -> Answer;
        fn is_same_object(DescriptorBorrow<'_>) -> bool;
        fn metadata_hash() -> Answer<MetadataHashValue>;
        fn metadata_hash_at(PathFlags, String) -> Answer<MetadataHashValue>;
    }
}
