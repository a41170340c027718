//! Two descriptors of one stream: the second is read with the structure of the first. The first byte splits them, the
//! next ones say how both are changed for a subscriber.
#![no_main]

#[path = "shared/captures.rs"]
mod captures;
#[path = "shared/seeds.rs"]
mod seeds;

use chappe_sfu::wire::{
    ActiveTargets, DependencyDescriptor, DependencyHeader, DependencyStructure, DescriptorPatch,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write(recorded), |input: &[u8]| {
    let Some(([at, bits, number, mask @ ..], rest)) = input.split_first_chunk::<7>() else {
        return;
    };
    let (first, second) = rest.split_at(usize::from(*at).min(rest.len()));
    let Ok(descriptor) = DependencyDescriptor::parse(first, None) else {
        // Changed blindly: it fits or is refused.
        let active = ActiveTargets { mask: u32::from_be_bytes(*mask), count: bits % 33 };
        let patch = DescriptorPatch { frame_number: 1, active: Some(active) };
        let _ = patch.apply(first, &mut [0; 64]);
        return;
    };
    assert_eq!(DependencyHeader::parse(first), Ok(descriptor.header));
    let structure = descriptor.structure.as_ref().expect("no frame is read without a structure");
    for target in 0..structure.decode_targets() {
        let (spatial, temporal) = structure.layers_of(target);
        assert!(spatial < structure.spatial_layers() && temporal < 8);
        assert!(structure.protected_by(target).is_none_or(|chain| chain < structure.chains()));
    }
    let all = u32::MAX >> (32 - u32::from(structure.decode_targets()));
    let active =
        ActiveTargets { mask: u32::from_be_bytes(*mask) & all, count: structure.decode_targets() };
    let patch = DescriptorPatch {
        frame_number: u16::from(*number) << 8 | u16::from(*bits),
        active: (bits & 1 == 1).then_some(active),
    };
    changed(first, &descriptor, patch, None);
    if let Ok(next) = DependencyDescriptor::parse(second, Some(structure)) {
        let _ = (next.indications.of(*at), next.chain_diff(*at));
        // Its own structure, where it has one, may have another number of targets.
        if next.structure.is_none() {
            changed(second, &next, patch, Some(structure));
        }
    }
});

/// Descriptors of a browser: those with a structure, each with one that follows it.
fn recorded() -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for capture in captures::all() {
        let descriptors = capture.packets.iter().map(|packet| packet.descriptor);
        let descriptors: Vec<_> = descriptors.filter(|raw| !raw.is_empty()).collect();
        for (index, first) in descriptors.iter().enumerate() {
            if !DependencyHeader::parse(first).is_ok_and(|header| header.has_structure) {
                continue;
            }
            for second in descriptors.iter().skip(index + 1).take(12) {
                let mut input = vec![first.len() as u8, index as u8 | 1, 7, 0, 0, 0x01, 0x55];
                input.extend_from_slice(first);
                input.extend_from_slice(second);
                inputs.push(input);
            }
        }
    }
    inputs
}

/// Nothing differs but what the patch says, and it grows no further than it may.
fn changed(
    bytes: &[u8],
    original: &DependencyDescriptor,
    patch: DescriptorPatch,
    known: Option<&DependencyStructure>,
) {
    let mut out = vec![0xff; bytes.len() + DescriptorPatch::MAX_GROWTH];
    let len = patch.apply(bytes, &mut out).expect("it grows by so much at most");
    let read = DependencyDescriptor::parse(&out[..len], known).expect("it stays readable");
    let mut expected = original.clone();
    expected.header.frame_number = patch.frame_number;
    if let Some(active) = patch.active {
        expected.active_decode_targets = Some(active.mask);
    }
    assert_eq!(read, expected);
    // A byte less is refused, not cut.
    assert!(patch.apply(bytes, &mut vec![0; len - 1]).is_err());
}
