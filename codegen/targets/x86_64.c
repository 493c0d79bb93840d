/* x86-64. Counting forms, best first: VPOPCNTD on whole vectors; counts by byte (LLVM makes the
 * PSHUFB table of them) summed in bytes; without either, POPCNT of scalar words, which beats
 * SSSE3's table; on plain SSE2, bytes by masks and shifts. */
#include "codegen/targets/target_desc.h"

#include <llvm-c/Target.h>

static const char *const aliases[] = {"x86-64", "amd64", "x64", NULL};

static const char probe_text[] = "define <16 x i32> @words(ptr %p) {\n"
                                 "  %v = load <16 x i32>, ptr %p, align 4\n"
                                 "  %c = call <16 x i32> @llvm.ctpop.v16i32(<16 x i32> %v)\n"
                                 "  ret <16 x i32> %c\n}\n"
                                 "define <64 x i8> @bytes(ptr %p) {\n"
                                 "  %v = load <64 x i8>, ptr %p, align 4\n"
                                 "  %c = call <64 x i8> @llvm.ctpop.v64i8(<64 x i8> %v)\n"
                                 "  ret <64 x i8> %c\n}\n"
                                 "define i64 @scalar(i64 %x) {\n"
                                 "  %c = call i64 @llvm.ctpop.i64(i64 %x)\n"
                                 "  ret i64 %c\n}\n"
                                 "define float @fma(float %a, float %b, float %c) {\n"
                                 "  %r = call float @llvm.fma.f32(float %a, float %b, float %c)\n"
                                 "  ret float %r\n}\n"
                                 "define <16 x float> @floats(ptr %p, <16 x float> %x) {\n"
                                 "  %v = load <16 x float>, ptr %p, align 4\n"
                                 "  %c = fadd <16 x float> %v, %x\n"
                                 "  ret <16 x float> %c\n}\n"
                                 "declare <16 x i32> @llvm.ctpop.v16i32(<16 x i32>)\n"
                                 "declare <64 x i8> @llvm.ctpop.v64i8(<64 x i8>)\n"
                                 "declare i64 @llvm.ctpop.i64(i64)\n"
                                 "declare float @llvm.fma.f32(float, float, float)\n";

static const qnet_machine vpopcnt = {
    .name = "x86-64 AVX-512 VPOPCNTDQ",
    .word_bits = 32,
    .lanes = 16,
    .registers = 32,
    .count = QNET_COUNT_WORD,
    .tile = {{1, 1, 8, 3}, {1, 2, 6, 2}, {2, 1, 6, 2}, {2, 2, 3, 2}, {3, 3, 2, 1}},
};
static const qnet_machine avx512_bytes = {
    .name = "x86-64 AVX-512 without VPOPCNTDQ",
    .word_bits = 32,
    .lanes = 16,
    .registers = 32,
    .count = QNET_COUNT_BYTE,
    .tile = {{1, 1, 4, 2}, {1, 2, 4, 1}, {2, 1, 4, 1}, {2, 2, 2, 1}},
};
static const qnet_machine avx2_bytes = {
    .name = "x86-64 AVX2",
    .word_bits = 32,
    .lanes = 8,
    .registers = 16,
    .count = QNET_COUNT_BYTE,
    .tile = {{1, 1, 4, 2}, {1, 2, 4, 1}, {2, 1, 4, 1}, {2, 2, 2, 1}},
};
static const qnet_machine popcnt = {
    .name = "x86-64 POPCNT",
    .word_bits = 64,
    .lanes = 1,
    .registers = 13, /* the stack pointer and two addresses are not free */
    .count = QNET_COUNT_WORD,
    .tile = {{1, 1, 4, 2}, {1, 2, 4, 1}, {2, 1, 4, 1}, {2, 2, 2, 1}},
};
static const qnet_machine sse2_bytes = {
    .name = "x86-64 SSE2",
    .word_bits = 32,
    .lanes = 4,
    .registers = 16,
    .count = QNET_COUNT_BYTE,
    .tile = {{1, 1, 4, 2}, {1, 2, 4, 1}, {2, 1, 4, 1}, {2, 2, 2, 1}},
};

static int f32_lanes(const qnet_probe *p) {
  if (qnet_probe_has(p, "floats", "zmm")) return 16;
  return qnet_probe_has(p, "floats", "ymm") ? 8 : 4;
}

static void refine(const qnet_probe *p, qnet_machine *out) {
  const bool table = qnet_probe_has(p, "bytes", "vpshufb");
  if (qnet_probe_has(p, "words", "vpopcntd") && qnet_probe_has(p, "words", "zmm")) {
    *out = vpopcnt;
  } else if (table && qnet_probe_has(p, "bytes", "zmm")) {
    *out = avx512_bytes;
  } else if (table && qnet_probe_has(p, "bytes", "ymm")) {
    *out = avx2_bytes;
  } else {
    *out = qnet_probe_has(p, "scalar", "popcnt") ? popcnt : sse2_bytes;
  }
  out->f32_lanes = f32_lanes(p);
  out->fma = !qnet_probe_has(p, "fma", "fmaf");
}

static void initialize(void) {
  LLVMInitializeX86TargetInfo();
  LLVMInitializeX86Target();
  LLVMInitializeX86TargetMC();
  LLVMInitializeX86AsmPrinter();
}

const qnet_target qnet_target_x86_64 = {
    .name = "x86_64",
    .aliases = aliases,
    .triple = "x86_64-unknown-linux-gnu",
    .cpu = "x86-64",
    .features = "",
    .abi = "",
    .doc = "64-bit x86: SSE2, POPCNT, AVX2, AVX-512",
    .initialize = initialize,
    .probe = probe_text,
    .refine = refine,
};
