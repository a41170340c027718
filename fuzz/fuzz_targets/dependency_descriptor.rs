//! Two descriptors of one stream: the second is read with the structure of the first. The first byte splits them.
#![no_main]

use chappe_sfu::wire::{DependencyDescriptor, DependencyHeader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((at, rest)) = input.split_first() else { return };
    let (first, second) = rest.split_at(usize::from(*at).min(rest.len()));
    let Ok(descriptor) = DependencyDescriptor::parse(first, None) else { return };
    assert_eq!(DependencyHeader::parse(first), Ok(descriptor.header));
    let structure = descriptor.structure.expect("no frame is read without a structure");
    for target in 0..structure.decode_targets() {
        let (spatial, temporal) = structure.layers_of(target);
        assert!(spatial < structure.spatial_layers() && temporal < 8);
        assert!(structure.protected_by(target).is_none_or(|chain| chain < structure.chains()));
    }
    if let Ok(next) = DependencyDescriptor::parse(second, Some(&structure)) {
        let _ = (next.indications.of(*at), next.chain_diff(*at));
    }
});
