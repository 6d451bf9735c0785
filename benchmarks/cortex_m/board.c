/* Runs the network on the digits that the emulator has put at DIGITS: a 32 bit number of them, then 784 bytes each.
   Prints, in hexadecimal and for each, the answer and ten logits; at last the instructions and the stack bytes of a picture. */
#include <stdint.h>

#include MODEL_HEADER

#define DIGITS 0x21000000u
#define PAINT 0xa5a5a5a5u

/* With -icount shift=0 the emulated clock goes on by 1 ns an instruction; SysTick counts it at 25 MHz. */
#define SYSTICK ((volatile uint32_t *)0xe000e010u)
#define NANOSECONDS_PER_TICK 40

extern uint32_t stack_top[], stack_painted[]; /* of the linker script */
void reset(void);

static int semihosting(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void print(uint32_t value, char end)
{
    char text[10];
    for (int i = 0; i < 8; i++, value <<= 4)
        text[i] = "0123456789abcdef"[value >> 28];
    text[8] = end;
    text[9] = 0;
    semihosting(4, text); /* SYS_WRITE0 */
}

static ARENA arena;

static void run(void)
{
    const uint32_t count = *(const uint32_t *)DIGITS;
    const uint8_t *image = (const uint8_t *)(DIGITS + 4);
    uint32_t start, ticks = 0, unused = 0;
    int32_t logits[10], answer;
    register uint32_t *here __asm__("sp");
    for (uint32_t *word = stack_painted; word < here - 16; word++)
        *word = PAINT;
    SYSTICK[1] = 0xffffff;
    SYSTICK[0] = 5;
    for (uint32_t i = 0; i < count; i++, image += 784) {
        start = SYSTICK[2];
        answer = tinydigits_predict(image, &arena, logits);
        ticks = (start - SYSTICK[2]) & 0xffffff;
        if (i == 0)
            while (stack_painted[unused] == PAINT)
                unused++;
        print((uint32_t)answer, ' ');
        for (int k = 0; k < 10; k++)
            print((uint32_t)logits[k], k < 9 ? ' ' : '\n');
    }
    print(ticks * NANOSECONDS_PER_TICK, ' ');
    print((uint32_t)((here - stack_painted - unused) * 4), '\n');
}

void reset(void)
{
    run();
    semihosting(0x18, (const void *)0x20026); /* SYS_EXIT: the application has ended */
    for (;;) {
    }
}

__attribute__((section(".vectors"), used)) static const struct {
    uint32_t *stack;
    void (*start)(void);
} vectors = {stack_top, reset};
