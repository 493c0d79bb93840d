/* RISC-V, 64 bit. Zbb has cpop for a word. Without it a population count is 12 instructions, so
 * that a carry-save tree of 8 words in front of it pays. The vector extension is not used. */
#include "codegen/targets/target_desc.h"

#include <llvm-c/Target.h>

static const char *const aliases[] = {"rv64", "riscv", "riscv64gc", NULL};

static const char probe_text[] = "define i64 @scalar(i64 %x) {\n"
                                 "  %c = call i64 @llvm.ctpop.i64(i64 %x)\n"
                                 "  ret i64 %c\n}\n"
                                 "define i64 @multiply(i64 %x, i64 %y) {\n"
                                 "  %c = mul i64 %x, %y\n"
                                 "  ret i64 %c\n}\n"
                                 "define float @fma(float %a, float %b, float %c) {\n"
                                 "  %r = call float @llvm.fma.f32(float %a, float %b, float %c)\n"
                                 "  ret float %r\n}\n"
                                 "define double @double(double %a, double %b) {\n"
                                 "  %r = fadd double %a, %b\n"
                                 "  ret double %r\n}\n"
                                 "declare i64 @llvm.ctpop.i64(i64)\n"
                                 "declare float @llvm.fma.f32(float, float, float)\n";

static const qnet_machine zbb = {
    .name = "RV64 Zbb",
    .word_bits = 64,
    .lanes = 1,
    .f32_lanes = 1,
    .registers = 24, /* the rest holds addresses and loop counters */
    .count = QNET_COUNT_WORD,
    .tile = {{1, 1, 4, 2}, {1, 2, 4, 1}, {2, 1, 4, 1}, {2, 2, 2, 1}},
};
static const qnet_machine plain = {
    .name = "RV64 without Zbb",
    .word_bits = 64,
    .lanes = 1,
    .f32_lanes = 1,
    .registers = 24,
    .count = QNET_COUNT_CSA8,
    .tile = {{1, 1, 1, 1}},
};

static void refine(const qnet_probe *p, qnet_machine *out) {
  *out = qnet_probe_has(p, "scalar", "cpop") ? zbb : plain;
  out->fma = !qnet_probe_has(p, "fma", "fmaf");
}

static void initialize(void) {
  LLVMInitializeRISCVTargetInfo();
  LLVMInitializeRISCVTarget();
  LLVMInitializeRISCVTargetMC();
  LLVMInitializeRISCVAsmPrinter();
}

const qnet_target qnet_target_riscv64 = {
    .name = "riscv64",
    .aliases = aliases,
    .triple = "riscv64-unknown-linux-gnu",
    .cpu = "generic-rv64",
    .features = "+m,+a,+f,+d,+c",
    .abi = "lp64d",
    .doc = "64-bit RISC-V (rv64gc): scalar code, cpop with +zbb",
    .initialize = initialize,
    .probe = probe_text,
    .refine = refine,
};
