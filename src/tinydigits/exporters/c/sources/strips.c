/* Where the next row of a strip belongs. If the strip is full, a shift makes each column lose its oldest pixel. */
static {{type}} *make_room({{type}} *strip, int size, int channels, int height, int row)
{
    if (row < height)
        return strip + row * channels;
    for (int i = channels; i < size; i++)
        strip[i - channels] = strip[i];
    return strip + (height - 1) * channels;
}

/* Fills columns of a row with what the border consists of. */
static void pad_row({{type}} *row, int columns, int cell, int channels, {{type}} value)
{
    for (; columns > 0; columns--, row += cell)
        for (int i = 0; i < channels; i++)
            row[i] = value;
}
