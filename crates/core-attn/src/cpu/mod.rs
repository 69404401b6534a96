//! What the CPU backends run: slices in, `Vec` out.

pub(crate) mod gemm;
pub(crate) mod simd;

use burn::backend::{Backend, tensor::FloatTensor};
use burn::prelude::*;

/// A backend whose `f32` tensors can be read as a slice and made from a `Vec` without a copy.
pub(crate) trait Raw: Backend {
    /// Calls `f` with the elements in row-major order (copied first where the tensor is a strided view).
    fn with<R>(tensor: &FloatTensor<Self>, f: impl FnOnce(&[f32]) -> R) -> R;
    /// A tensor of these elements.
    fn make(values: Vec<f32>, shape: Shape) -> FloatTensor<Self>;
}

#[cfg(feature = "flex")]
impl Raw for burn::backend::Flex {
    fn with<R>(tensor: &FloatTensor<Self>, f: impl FnOnce(&[f32]) -> R) -> R {
        match tensor.as_slice::<f32>() {
            Some(slice) => f(slice),
            None => f(tensor
                .to_contiguous()
                .as_slice::<f32>()
                .expect("a contiguous f32 tensor is a slice; callers check the dtype")),
        }
    }

    fn make(values: Vec<f32>, shape: Shape) -> FloatTensor<Self> {
        burn_flex::FlexTensor::from_data(TensorData::new(values, shape))
    }
}

#[cfg(feature = "ndarray")]
#[allow(deprecated)] // kept as a second, independent CPU implementation
impl Raw for burn::backend::NdArray {
    fn with<R>(tensor: &FloatTensor<Self>, f: impl FnOnce(&[f32]) -> R) -> R {
        let burn_ndarray::NdArrayTensor::F32(storage) = tensor else {
            unreachable!("callers send f32 tensors only")
        };
        let view = storage.view();
        let rows = view.as_standard_layout();
        f(rows.as_slice().expect("standard layout is contiguous"))
    }

    fn make(values: Vec<f32>, shape: Shape) -> FloatTensor<Self> {
        burn_ndarray::NdArrayTensor::from_data(TensorData::new(values, shape))
    }
}

/// True where this crate's slice kernels run: `f32` tensors on flex or ndarray, with or without autodiff.
pub(crate) fn has_kernels<const D: usize>(tensor: &Tensor<D>) -> bool {
    crate::is_host(&tensor.device()) && tensor.dtype() == burn::tensor::DType::F32
}

/// [`has_kernels`] for every operand.
pub(crate) fn all_have_kernels<const D: usize>(tensors: &[&Tensor<D>]) -> bool {
    tensors.iter().all(|t| has_kernels(t))
}

/// A pointer into an output that several tasks fill at disjoint places.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32);

// SAFETY: the pointer is only dereferenced through `Shared::at`, whose callers promise disjoint places.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(buffer: &mut [f32]) -> Self {
        Self(buffer.as_mut_ptr())
    }

    /// # Safety
    /// `offset` lies inside the buffer, which outlives the use, and no other task touches the places used from there.
    pub(crate) unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}
