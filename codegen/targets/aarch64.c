/* AArch64. CNT counts bytes, UADALP adds pairs of them to 16-bit sums: two instructions a vector
 * after the AND, which no carry-save tree beats. LLVM makes both of a 16-bit ctpop and an add. */
#include "codegen/targets/target_desc.h"

#include <llvm-c/Target.h>

static const char *const aliases[] = {"arm64", "armv8", NULL};

static const char probe_text[] = "define <8 x i16> @pairs(<8 x i16> %a, <8 x i16> %x) {\n"
                                 "  %c = call <8 x i16> @llvm.ctpop.v8i16(<8 x i16> %x)\n"
                                 "  %s = add <8 x i16> %a, %c\n"
                                 "  ret <8 x i16> %s\n}\n"
                                 "define i64 @scalar(i64 %x) {\n"
                                 "  %c = call i64 @llvm.ctpop.i64(i64 %x)\n"
                                 "  ret i64 %c\n}\n"
                                 "define float @fma(float %a, float %b, float %c) {\n"
                                 "  %r = call float @llvm.fma.f32(float %a, float %b, float %c)\n"
                                 "  ret float %r\n}\n"
                                 "declare <8 x i16> @llvm.ctpop.v8i16(<8 x i16>)\n"
                                 "declare i64 @llvm.ctpop.i64(i64)\n"
                                 "declare float @llvm.fma.f32(float, float, float)\n";

static const qnet_machine neon = {
    .name = "AArch64 NEON",
    .word_bits = 32,
    .lanes = 4,
    .f32_lanes = 4,
    .registers = 32,
    .count = QNET_COUNT_PAIR,
    .tile = {{1, 1, 8, 2}, {1, 2, 4, 2}, {2, 1, 4, 2}, {2, 2, 2, 2}, {3, 3, 2, 1}},
};
static const qnet_machine scalar = {
    .name = "AArch64 without NEON",
    .word_bits = 64,
    .lanes = 1,
    .f32_lanes = 1,
    .registers = 24, /* the rest holds addresses and constants */
    .count = QNET_COUNT_CSA8,
    .tile = {{1, 1, 1, 1}},
};

static void refine(const qnet_probe *p, qnet_machine *out) {
  *out = qnet_probe_has(p, "pairs", "uadalp") ? neon : scalar;
  if (out->lanes == 1 && qnet_probe_has(p, "scalar", "cnt\t")) out->count = QNET_COUNT_WORD;
  out->fma = !qnet_probe_has(p, "fma", "fmaf");
}

static void initialize(void) {
  LLVMInitializeAArch64TargetInfo();
  LLVMInitializeAArch64Target();
  LLVMInitializeAArch64TargetMC();
  LLVMInitializeAArch64AsmPrinter();
}

const qnet_target qnet_target_aarch64 = {
    .name = "aarch64",
    .aliases = aliases,
    .triple = "aarch64-unknown-linux-gnu",
    .cpu = "generic",
    .features = "",
    .abi = "",
    .doc = "64-bit ARM, little endian: NEON",
    .pair_sum = "llvm.aarch64.neon.uaddlp",
    .initialize = initialize,
    .probe = probe_text,
    .refine = refine,
};
